"""The commands. What they need is imported when they run, so that ``--help`` is quick."""

import json
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from mergesearch.errors import UserError

Command = Callable[..., None]


def _example(text: str) -> dict[str, Any]:
    return {"epilog": f"Example: {text}", "context_settings": {"max_content_width": 100}}


def _mends(command: Command) -> Command:
    """Errors that the user can mend end with exit code 2 and no traceback."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except UserError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(2)

    return wrapped


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="mergesearch")
def main() -> None:
    """Search for the best merge of language models, and prove it on items the search never saw.

    \b
    Start:   mergesearch demo
    Then:    mergesearch check my.yml && mergesearch run my.yml
    """


@main.command(**_example("mergesearch demo"))
@click.option("--trials", type=click.IntRange(min=1), help="How many trials in all.")
@_mends
def demo(trials: int | None) -> None:
    """Train two small experts, search for their best merge, judge it.

    Trains a base, a Python expert and a C++ expert in about two minutes (kept under results/demo and used again),
    then runs configs/demo.yml.
    """
    from mergesearch.demo.command import demo_config, make_with_progress
    from mergesearch.search.report.console import console

    make_with_progress(console())
    with demo_config() as config:
        _run(config, {"trials": trials}, None)


@main.command(**_example("mergesearch run configs/demo.yml --trials 100"))
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--name", help="The run's name: its folder under the results.")
@click.option("--trials", type=click.IntRange(min=1), help="How many trials in all, earlier ones counted.")
@click.option("--timeout", metavar="TIME", help="How long in all, e.g. 2h30m; the last trial is finished.")
@click.option("--results", type=click.Path(path_type=Path), help="Where runs are kept [results/runs].")
@click.option("--storage", metavar="URL", help="A database for the study, e.g. sqlite:///study.db.")
@click.option("--seed", type=click.IntRange(min=0), help="Of every random choice of the run.")
@_mends
def run(config: Path, results: Path | None, **overrides: Any) -> None:
    """Run a search, or go on where it stopped.

    CONFIG is a recipe with holes, the tasks and the budget. Leaves best.yml, verdict.json, report.html and the merged
    model in results/runs/NAME. Ctrl-C stops; the same command goes on. Begun again while it runs, it joins in: once
    for each GPU or host that shares the results folder.
    """
    _run(config, overrides, results)


@main.command(**_example("mergesearch soup configs/soup.yml"))
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--name", help="The run's name: its folder under the results.")
@click.option("--results", type=click.Path(path_type=Path), help="Where runs are kept [results/runs].")
@click.option("--storage", metavar="URL", help="A database for the study, e.g. sqlite:///study.db.")
@click.option("--seed", type=click.IntRange(min=0), help="Of every random choice of the run.")
@_mends
def soup(config: Path, results: Path | None, **overrides: Any) -> None:
    """Average the right ones of many checkpoints, or go on where that stopped.

    CONFIG says in `soup` where the checkpoints are and which soups to make: uniform, greedy, pruned, learned. Leaves
    what `mergesearch run` leaves; the verdict is the best soup's against the best single model.
    """
    _run(config, overrides, results, section="soup")


def _run(file: Path, overrides: dict[str, Any], results: Path | None, section: str = "recipe") -> None:
    from mergesearch.search import run as runner
    from mergesearch.search.config import RESULTS, Config
    from mergesearch.search.problem.problem import open_job
    from mergesearch.search.report.console import console, print_verdict, shown_progress

    config = Config.read(file, **overrides)
    if section == "soup" and config.soup is None:
        raise UserError(f"{file}: soup: is missing; a config with a recipe is for `mergesearch run`")
    screen, folder = console(), (results or RESULTS) / config.output.name
    screen.print(f"[dim]checking {file}[/dim]")
    try:
        job = open_job(config, str(file))
        with shown_progress(screen) as watcher:
            verdict = runner.run(job, folder.parent, watcher)
    except KeyboardInterrupt:
        click.echo(
            f"\nStopped; every finished trial is kept in {folder}. The same command goes on from there.", err=True
        )
        sys.exit(130)
    print_verdict(screen, verdict)
    screen.print(f"recommended, {verdict.recommended}: {folder / 'recommended.yml'}")
    screen.print(f"the search's best: {folder / 'best.yml'}   report: {folder / 'report.html'}")


@main.command(**_example("mergesearch merge results/runs/python-cpp/best.yml merged"))
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@_mends
def merge(recipe: Path, out: Path) -> None:
    """Write a recipe's model to a new folder.

    RECIPE is mergekit's YAML, OUT must not exist or be empty. Paths in the recipe are relative to the current folder.
    """
    from mergesearch.merge_ops.engine.documents import merge_file

    merge_file(recipe, out, click.echo)
    click.echo(f"wrote {out}")


@main.command("eval", **_example("mergesearch eval merged configs/demo.yml --json"))
@click.argument("model")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help='Print {"tasks": {TASK: {METRIC: value}}}.')
@_mends
def evaluate(model: str, config: Path, as_json: bool) -> None:
    """Score a model on a config's tasks.

    MODEL is a checkpoint's folder; every item of CONFIG's tasks is scored, on both sides of the split.
    """
    from mergesearch.search.config import Config
    from mergesearch.search.evaluate import evaluate_model

    found = evaluate_model(model, Config.read(config), str(config), lambda note: click.echo(note, err=True))
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for task, values in found["tasks"].items():
        for metric, value in values.items():
            click.echo(f"{task:<24} {metric:<16} {value:.4f}")


@main.command(**_example("mergesearch check configs/demo.yml"))
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--measure", is_flag=True, help="Build one candidate and score a few items, for the estimate of time.")
@_mends
def check(config: Path, measure: bool) -> None:
    """Find what is wrong with a config, without a search.

    Checks CONFIG's keys, paths, tensors, method parameters and tasks, and shows what a run would do: the dimensions,
    what each sampler can do with them, and about how much time and memory it takes.
    """
    from mergesearch.search.config import Config
    from mergesearch.search.problem.problem import open_job
    from mergesearch.search.report.console import console, print_job
    from mergesearch.search.scoring import cost as costs

    job = open_job(Config.read(config), str(config))
    print_job(console(), job, costs.measure(job) if measure else costs.guess(job))
    click.echo(f"{config}: ready to run")


@main.command(**_example("mergesearch methods ties"))
@click.argument("name", required=False)
@_mends
def methods(name: str | None) -> None:
    """List the merge methods, or explain one.

    With NAME: its formula, paper and parameters, with defaults and the ranges worth searching.
    """
    from mergesearch.merge_ops.methods import METHODS, find_method
    from mergesearch.search.report.methods_page import method_page, methods_table

    click.echo(method_page(find_method(name)) if name else methods_table(METHODS))
