"""The commands as functions.

run = mergesearch.run("my.yml")
print(run.verdict.sentence)
run.trials.sort_values("value")
model, tokenizer = run.best.build()
run.best.write("merged")
"""

import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from os import PathLike
from pathlib import Path
from typing import Any

from mergesearch.files import PathName
from mergesearch.foreign import other_code
from mergesearch.merge_ops.engine.documents import merge_file
from mergesearch.merge_ops.engine.engine import merge as merge_recipe
from mergesearch.merge_ops.engine.options import MergeOptions
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.parsing import parse
from mergesearch.search import run as runner
from mergesearch.search.api.finished import Run
from mergesearch.search.candidates.plan import open_plan
from mergesearch.search.config import RESULTS, Config
from mergesearch.search.optimize.callbacks import QUIET, Watcher
from mergesearch.search.problem.problem import read_config
from mergesearch.trust import trust_code


def run(config: Config | Mapping[str, Any] | PathName, results: PathName = RESULTS, *, progress: bool = False) -> Run:
    """Runs a config, or resumes the run of its name; with a section ``soup``, makes soups.

    ``config`` is a file, its content (with paths relative to the current folder), or a Config; the run's folder is
    ``results/NAME``. ``progress`` shows the progress bar of the command line. Raises UserError for an invalid config,
    before anything is scored.
    """
    where = str(config) if isinstance(config, str | PathLike) else "config"
    read = _config(config)
    with other_code("the run"), trust_code(read.trust), _watching(progress) as watcher:
        plan = open_plan(read, where)
        verdict = runner.run(plan, Path(results), watcher)
    return Run(Path(results) / plan.problem.config.output.name, plan.problem.config, verdict)


def _config(config: Config | Mapping[str, Any] | PathName) -> Config:
    if isinstance(config, Config):
        return config
    if isinstance(config, Mapping):
        return parse(Config, dict(config), "config")
    return read_config(Path(config))


def _watching(progress: bool) -> AbstractContextManager[Watcher]:
    if not progress:
        return nullcontext(QUIET)
    from mergesearch.search.report.console import shown_progress
    from mergesearch.search.report.screen import console

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
