"""The Python API: the commands as functions that return their results.

run = mergesearch.run("my.yml")
print(run.verdict.sentence)
run.trials.sort_values("value")
model, tokenizer = run.best.build()
run.best.write("merged")
"""

import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from mergesearch.errors import UserError
from mergesearch.files import PathName
from mergesearch.foreign import other_code
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.engine.documents import merge_file, merge_recipes, read_recipes
from mergesearch.merge_ops.engine.engine import Engine, find_device
from mergesearch.merge_ops.engine.engine import merge as merge_recipe
from mergesearch.merge_ops.engine.options import MergeOptions
from mergesearch.merge_ops.live import live
from mergesearch.merge_ops.live.built import find_builder
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.parsing import parse
from mergesearch.search import run as runner
from mergesearch.search.candidates.plan import open_plan
from mergesearch.search.config import RESULTS, Config
from mergesearch.search.optimize.callbacks import QUIET, Watcher
from mergesearch.search.problem.problem import read_config
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_folder import RunFolder
from mergesearch.search.verdict.layers import COLUMNS, read_layers
from mergesearch.search.verdict.result import Verdict, read_verdict
from mergesearch.trust import trust_code

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial
    from pandas import DataFrame
    from torch import nn


class Built(NamedTuple):
    """A merged model in memory: a model in evaluation mode, and its tokenizer (None: it has none)."""

    model: "nn.Module"
    tokenizer: Any


@dataclass(frozen=True)
class Best:
    """A recipe that a run wrote. ``before`` are the recipes of those of its models that are merges of other runs."""

    recipe: Recipe
    device: str = field(default="auto", repr=False)
    builder: str | None = field(default=None, repr=False)
    before: Sequence[Recipe] = ()

    def build(self) -> Built:
        """The merged model, bit for bit as it was scored. Its checkpoints must be where the recipe says."""
        device, builder = find_device(self.device), find_builder(self.builder) if self.builder else None
        if self.recipe.keeps_shapes and not self.before:
            references = self.recipe.references
            engine = Engine(references, references[0], self.recipe.target_dtype, device, builder=builder)
            return Built(engine.build(self.recipe), engine.tokenizer)
        with TemporaryDirectory() as folder:
            self.write(Path(folder) / "model")
            return Built(*live.load(Checkpoint(str(Path(folder) / "model")), device, builder=builder))

    def write(self, out: PathName) -> None:
        """Writes the merged model to the folder ``out``, as ``merge`` does."""
        merge_recipes([*self.before, self.recipe], Path(out))


@dataclass(frozen=True)
class Run:
    """A run that has ended: its folder, its config and its verdict."""

    folder: Path
    config: Config
    verdict: Verdict

    @classmethod
    def read(cls, folder: PathName) -> "Run":
        """Reads a run from its folder. Raises UserError where there is no run or it has no verdict yet."""
        path = Path(folder)
        config = Config.read(path / "config.yml")
        verdict = read_verdict(RunFolder(path))
        if verdict is None:
            raise UserError(f"{path}: the run has no verdict yet; run its config again to resume it")
        return cls(path, config, verdict)

    @cached_property
    def best(self) -> Best:
        """The winner on the search items; the best baseline where the search found nothing better."""
        return self._written("best.yml")

    @cached_property
    def recommended(self) -> Best:
        """The winner if the test items prove it better than the best baseline, else that baseline."""
        return self._written("recommended.yml")

    def _written(self, name: str) -> Best:
        file = self.folder / name
        with trust_code(self.config.trust):
            *before, recipe = read_recipes(file)
            return Best(recipe, self.config.device, self.config.builder, before)

    @cached_property
    def layers(self) -> "DataFrame":
        """Which layers of the winner, and of the recommended model, come from which model.

        A row for each model in each part of a candidate; the columns are the attributes of ``LayerRow``. Raises
        UserError where the run has no such table.
        """
        from pandas import DataFrame

        return DataFrame(map(asdict, read_layers(self.folder)), columns=COLUMNS)

    @cached_property
    def trials(self) -> "DataFrame":
        """The finished trials by number, in the order in which they were scored.

        Columns: name, kind, state, value (the objective on the search items, higher is better; of several objectives
        their mean by weight; an estimate where the trial was stopped, NaN where it failed), ``values.TASK``,
        ``params.DIMENSION``, ``seconds.build``, ``seconds.score``, ``seconds.processor`` (to score), reason (of a
        failure), same_as (an earlier trial with the same model, whose scores were taken), phenotype and recipe (YAML).
        Raises UserError where trials of the verdict are lost.
        """
        from pandas import DataFrame

        folder = RunFolder(self.folder)
        with folder.reading():
            finished = t.finished(folder.open_study(self.config.search.storage))
        if len(finished) < self.verdict.trials:
            raise UserError(
                f"{self.folder}: has {len(finished)} finished trials, its verdict is that of {self.verdict.trials}: "
                "some are lost; bring its study back from a copy, or run the config again"
            )
        table = DataFrame([_row(trial) for trial in finished], index=[trial.number for trial in finished])
        return table.rename_axis("trial")


def _row(trial: "FrozenTrial") -> dict[str, Any]:
    attributes = trial.user_attrs
    groups = {"values": attributes.get(t.VALUES, {}), "params": trial.params, "seconds": attributes.get(t.SECONDS, {})}
    return {
        "name": attributes.get(t.NAME) or t.label_of(trial),
        "kind": t.kind_of(trial),
        "state": trial.state.name,
        "value": t.score_of(trial) if trial.values else None,
        **{f"{group}.{key}": value for group, values in groups.items() for key, value in values.items()},
        **{key: attributes.get(key) for key in (t.REASON, t.SAME_AS, t.PHENOTYPE, t.RECIPE)},
    }


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
