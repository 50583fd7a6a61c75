"""The command init: writes a first config."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mergesearch.errors import UserError
from mergesearch.search.cli.common import command, echo, tell

if TYPE_CHECKING:
    from mergesearch.search.draft.models import Found


@command("mergesearch init my.yml --base models/base --model models/code --model models/chat --task arc_easy")
@click.argument("path", default="my.yml", type=click.Path(path_type=Path))
@click.option("--base", help="The model that the others were trained from; `none`: there is none.")
@click.option("--model", "models", multiple=True, help="A model to merge: a folder, an adapter, a name on the hub.")
@click.option("--task", "tasks", multiple=True, help="A task of lm-eval, NAME[:METRIC], or text files ('texts/*.txt').")
@click.option("--include-path", help="Folder with lm-eval tasks of your own.")
@click.option("--trials", type=click.IntRange(min=1), help="Number of trials.")
@click.option("--from", "source", type=click.Path(path_type=Path), help="Config of mergekit-evolve or mergenetic.")
@click.option("--force", is_flag=True, help="Overwrite PATH.")
def init(path: Path, source: Path | None, force: bool, **answers: Any) -> None:
    """Write a first config, with comments, to PATH [my.yml].

    Asks for the base, the models and the tasks that no option gives. Models in the current folder are offered. --from
    translates the config of another tool, or makes a search of a recipe.
    """
    from mergesearch.files import write_text
    from mergesearch.search.draft.first import first_draft
    from mergesearch.search.draft.tasks import task_entry
    from mergesearch.search.draft.translation import translated

    if path.exists() and not force:
        raise UserError(f"{path}: exists already; --force overwrites it")
    entries = [task_entry(task, path, answers["include_path"], tell) for task in answers["tasks"]]
    if source is not None:
        draft = translated(source, path, entries, answers["include_path"])
    else:
        base, models = _ask_models(answers["base"], answers["models"])
        entries = entries or _ask_tasks(path, answers["include_path"])
        draft = first_draft(path, base, models, entries, answers["include_path"])
    if answers["trials"]:
        draft.data["search"]["trials"] = answers["trials"]
    draft.check(path)
    write_text(path, draft.text())
    echo(f"wrote {path}; next: mergesearch check {path}")


def _ask_models(base: str | None, models: Sequence[str]) -> tuple[str | None, list[str]]:
    from mergesearch.search.draft.models import checkpoints_below, fit, likely_base

    found = [] if base and models else checkpoints_below(Path.cwd())
    for number, each in enumerate(found, 1):
        echo(f"{number:>3}  {each.path}{f'  a LoRA adapter of {each.of}' if each.is_adapter else ''}")
    if base is None:
        asked = _ask(
            "base model: a number, a folder, a name on the hub, or none", "--base", likely_base(found) or "none"
        )
        base = _chosen(asked, found)[0]
    known = None if base == "none" else base
    if not models:
        others = [each for each in found if each.path != known]
        likely = ",".join(each.path for each in others if each.is_adapter or known is None or fit(each.path, known))
        models = _chosen(_ask("models to merge, with commas between", "--model", likely or None), found)
    return known, [_with_base(model, known) for model in models]


def _with_base(model: str, base: str | None) -> str:
    """An adapter is a model together with its base."""
    from mergesearch.merge_ops.checkpoint.adapters.config import ADAPTER_CONFIG
    from mergesearch.merge_ops.checkpoint.references import ModelReference

    if not (Path(model) / ADAPTER_CONFIG).is_file():
        return model
    if base is None:
        raise UserError(f"{model} is a LoRA adapter: give --base, the model that it was trained on")
    echo(f"{model} is a LoRA adapter: it is applied to {base}")
    return str(ModelReference(base, model))


def _ask_tasks(path: Path, include_path: str | None) -> list[dict[str, Any]]:
    """Asks until each task is known."""
    from mergesearch.search.draft.tasks import KNOWN, task_entry

    echo(f"tasks of lm-eval, such as {', '.join(KNOWN)}; or text files, such as texts/*.txt")
    while True:
        given = _ask("tasks, with commas between", "--task", None)
        try:
            return [task_entry(each, path, include_path, tell) for each in _parts(given)]
        except UserError as error:
            echo(str(error), err=True)


def _ask(question: str, option: str, likely: str | None) -> str:
    """An answer of the terminal. Raises UserError, which names the option, where there is nobody to ask."""
    try:
        answer: str = click.prompt(question, default=likely)
        return answer
    except click.Abort:
        if sys.stdin.isatty():
            raise
        raise UserError(f"{option}: is missing, and there is no terminal to ask for it") from None


def _parts(text: str) -> list[str]:
    """The parts of an answer; quotes are those of a shell."""
    parts = (part.strip().strip("'\"") for part in text.split(","))
    return [part for part in parts if part]


def _chosen(text: str, found: Sequence["Found"]) -> list[str]:
    """What an answer names: by number, or as it is."""
    parts = _parts(text)
    return [found[int(part) - 1].path if part.isdigit() and 0 < int(part) <= len(found) else part for part in parts]
