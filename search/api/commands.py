"""The commands as functions.

run = mergesearch.run("my.yml")
print(run.verdict.sentence)
run.trials.sort_values("value")
model, tokenizer = run.best.build()
run.best.write("merged")
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from mergesearch.files import PathName
from mergesearch.foreign import other_code
from mergesearch.merge_ops.engine.documents import merge_file
from mergesearch.merge_ops.engine.engine import merge as merge_recipe
from mergesearch.merge_ops.engine.options import MergeOptions
from mergesearch.merge_ops.methods import Scalar
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.parsing import parse
from mergesearch.search import run as runner
from mergesearch.search.across.curve import Curve
from mergesearch.search.across.evaluation import Evaluation
from mergesearch.search.api.check_report import CheckReport
from mergesearch.search.api.finished import Best, Run
from mergesearch.search.candidates.plan import SearchPlan, open_plan
from mergesearch.search.config import RESULTS, Config
from mergesearch.search.curve import CURVES, score_curve
from mergesearch.search.evaluate import evaluate_model
from mergesearch.search.optimize.callbacks import QUIET, Watcher
from mergesearch.search.problem.problem import read_config
from mergesearch.search.rehearsal import expected_cost
from mergesearch.search.report.console import print_plan, shown_progress
from mergesearch.search.report.notebook import in_notebook, notebook_progress
from mergesearch.search.report.screen import console, printed
from mergesearch.search.scoring.cost import Cost
from mergesearch.trust import trust_code


def run(config: Config | Mapping[str, Any] | PathName, results: PathName = RESULTS, *, progress: bool = False) -> Run:
    """Runs a config, or resumes the run of its name; with a section ``soup``, makes soups.

    ``config`` is a file, its content (with paths relative to the current folder), or a Config; the run's folder is
    ``results/NAME``. ``progress`` shows how far the run is, as the command line does; in a notebook with a plot of
    its trials. Raises UserError for an invalid config, before anything is scored.
    """
    with _opened(config) as plan, _watching(progress) as watcher:
        verdict = runner.run(plan, Path(results), watcher)
    return Run(Path(results) / plan.problem.config.output.name, plan.problem.config, verdict)


def check(config: Config | Mapping[str, Any] | PathName, *, measure: bool = False) -> CheckReport:
    """Does what a run of a config does before its first candidate, and estimates the rest.

    Loads the model, and scores a few items with it: what passes here runs. With ``measure`` it also builds candidates
    and scores more items, for a better estimate. Raises UserError for an invalid config.
    """
    notes: list[str] = []
    with _opened(config) as plan:
        cost = expected_cost(plan, measure, notes.append)
        text, page = printed(lambda screen: _print_check(screen, plan, cost, notes))
        problem = plan.problem
        return CheckReport(
            plan.trials,
            len(plan.baselines),
            [dimension.name for dimension in problem.space.dimensions],
            {task.name: (len(task.search), len(task.test)) for task in problem.tasks},
            cost.search(plan.trials),
            cost.verdict,
            notes,
            text,
            page,
        )


def _print_check(screen: Console, plan: SearchPlan, cost: Cost, notes: Sequence[str]) -> None:
    for note in notes:
        screen.print(note)
    print_plan(screen, plan, cost)


def evaluate(
    model: PathName | Recipe | Best, config: Config | Mapping[str, Any] | PathName, results: PathName = RESULTS
) -> Evaluation:
    """Scores a model on the tasks of a config, on search and test items alike.

    ``model`` is a checkpoint, a name on the hub, the file of a recipe, a Recipe, or what a run recommends; a recipe's
    model is written to a temporary folder. Where ``results`` has a run of the config's name, this is a look at its test
    items, which the run counts, and which is warned of (UserWarning). Raises UserError for invalid tasks or models.
    """
    read, where = _config(config), _where(config)
    with other_code("the evaluation"), trust_code(read.trust), TemporaryDirectory() as folder:
        if isinstance(model, Best):
            model.write(Path(folder) / "model")
            model = Path(folder) / "model"
        found = model if isinstance(model, Recipe) else str(model)
        return evaluate_model(found, read, where, _warn, Path(results))


def curve(
    config: Config | Mapping[str, Any] | PathName,
    *,
    points: int = 11,
    at: Sequence[Scalar] = (),
    results: PathName = CURVES,
) -> Curve:
    """Scores a path of merges, such as from a base to its fine-tune, at several points on the search items.

    The recipe of ``config`` has one hole, whose range is the path: ``points`` values of it are scored, evenly spread,
    or ``at`` these. The checkpoints are read once. The curve is left in ``results/NAME`` as JSON and as a page with
    figures; points that were scored before are read from there. Raises UserError for an invalid config, and for a point
    that cannot be built or scored.
    """
    read = _config(config)
    with other_code("the curve"), trust_code(read.trust):
        return score_curve(read, _where(config), points, at, Path(results))


def _warn(text: str) -> None:
    if text.startswith("warning: "):
        warnings.warn(text.removeprefix("warning: "), stacklevel=4)


@contextmanager
def _opened(config: Config | Mapping[str, Any] | PathName) -> Iterator[SearchPlan]:
    read = _config(config)
    with other_code("the run"), trust_code(read.trust):
        yield open_plan(read, _where(config))


def _where(config: Config | Mapping[str, Any] | PathName) -> str:
    return str(config) if isinstance(config, str | PathLike) else "config"


def _config(config: Config | Mapping[str, Any] | PathName) -> Config:
    if isinstance(config, Config):
        return config
    if isinstance(config, Mapping):
        return parse(Config, dict(config), "config")
    return read_config(Path(config))


def _watching(progress: bool) -> AbstractContextManager[Watcher]:
    if not progress:
        return nullcontext(QUIET)
    if in_notebook():
        return notebook_progress()
    return shown_progress(console())


def merge(
    recipe: Recipe | Mapping[str, Any] | PathName, out: PathName, *, allow_nan: bool = False, verify: bool = False
) -> None:
    """Writes a recipe's model to the new folder ``out``, as transformers loads it, or nothing where it fails.

    ``recipe`` is mergekit's YAML: a file (of several documents too), its content, or a Recipe. Paths in it are relative
    to the current folder. Warns (UserWarning) where the models do not go together well. Raises UserError for an invalid
    recipe, where ``out`` is not empty and, without ``allow_nan``, for tensors with NaN or infinite values. ``verify``
    reads what was written back from the disk, and compares it.
    """
    options = MergeOptions(warn=warnings.warn, allow_nan=allow_nan, verify=verify)
    with other_code("the merge"):
        if isinstance(recipe, str | PathLike):
            merge_file(Path(recipe), Path(out), options)
        else:
            merge_recipe(
                recipe if isinstance(recipe, Recipe) else Recipe.read(dict(recipe), warn=warnings.warn),
                Path(out),
                options=options,
            )
