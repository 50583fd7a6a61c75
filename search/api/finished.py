"""Runs that have ended: their verdict, trials, recipes and figures, read from their folder when they are asked for.

Nothing here imports torch before a model is built, or trials are read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from mergesearch.errors import UserError
from mergesearch.files import PathName
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.notebook import bullets, paragraph
from mergesearch.search.config import Config
from mergesearch.search.verdict.layers import COLUMNS, read_layers
from mergesearch.search.verdict.result import Verdict, held_verdict
from mergesearch.text import as_html
from mergesearch.trust import trust_code

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial
    from pandas import DataFrame
    from plotly.graph_objects import Figure
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
        from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
        from mergesearch.merge_ops.engine.engine import Engine, find_device
        from mergesearch.merge_ops.live import live
        from mergesearch.merge_ops.live.built import find_builder

        device, builder = find_device(self.device), find_builder(self.builder) if self.builder else None
        if self.recipe.keeps_shapes and not self.before:
            recipe, references = self.recipe, self.recipe.references
            options: dict[str, Any] = {"tokenizer": recipe.vocabulary, "base": recipe.base_model}
            engine = Engine(references, references[0], recipe.target_dtype, device, builder=builder, **options)
            return Built(engine.build(recipe), engine.tokenizer)
        with TemporaryDirectory() as folder:
            self.write(Path(folder) / "model")
            return Built(*live.load(Checkpoint(str(Path(folder) / "model")), device, builder=builder))

    def write(self, out: PathName) -> None:
        """Writes the merged model to the folder ``out``, as ``merge`` does."""
        from mergesearch.merge_ops.engine.documents import merge_recipes

        merge_recipes([*self.before, self.recipe], Path(out))


@dataclass(frozen=True)
class Run:
    """A run that has ended: its folder, its config and its verdict."""

    folder: Path
    config: Config = field(repr=False)
    verdict: Verdict = field(repr=False)

    @classmethod
    def read(cls, folder: PathName) -> "Run":
        """Reads a run from its folder. Raises UserError where there is no run or it has no verdict yet."""
        path = Path(folder)
        return cls(path, Config.read(path / "config.yml"), held_verdict(path))

    @cached_property
    def best(self) -> Best:
        """The winner on the search items; the best baseline where the search found nothing better."""
        return self._written("best.yml")

    @cached_property
    def recommended(self) -> Best:
        """The winner if the test items prove it better than the best baseline, else that baseline."""
        return self._written("recommended.yml")

    def _written(self, name: str) -> Best:
        from mergesearch.merge_ops.engine.documents import read_recipes

        file = self.folder / name
        with trust_code(self.config.trust):
            *before, recipe = read_recipes(file)
            return Best(recipe, self.config.device, self.config.builder, before)

    @cached_property
    def items(self) -> "DataFrame":
        """What the run's items ask, and the scores of the winner, the baselines and the soups; see ``items_of``."""
        return self.items_of(*self._finalists)

    def items_of(self, *trials: int) -> "DataFrame":
        """A row for each item: what it asks, and the scores of the models of these trials, by number.

        Columns: task, split (``search`` or ``test``), item (its id), question, right (the right answer) and choices,
        then one for each trial, with its name: a number, a list for tasks that take several numbers of an item, or NaN
        where the item was not scored, such as test items that only the verdict's candidates are scored on. Raises
        UserError for an unknown trial, and where the run's files are lost.
        """
        return self._item_table(trials)

    @cached_property
    def answers(self) -> "DataFrame":
        """As ``items``, with what the models answered to test items in place of scores; empty where that is unknown."""
        return self._item_table(self._finalists, answers=True)

    def _item_table(self, trials: Sequence[int], answers: bool = False) -> "DataFrame":
        from mergesearch.search.across.item_table import item_table
        from mergesearch.search.study.run_folder import RunFolder

        return item_table(RunFolder(self.folder), self.study, trials, answers)

    @property
    def _finalists(self) -> list[int]:
        return [row.trial for row in self.verdict.rows]

    @cached_property
    def layers(self) -> "DataFrame":
        """Which layers of the winner, and of the recommended model, come from which model.

        A row for each model in each part of a candidate; the columns are the attributes of ``LayerRow``. Raises
        UserError where the run has no such table.
        """
        from pandas import DataFrame

        return DataFrame(map(asdict, read_layers(self.folder)), columns=COLUMNS)

    @cached_property
    def study(self) -> "Study":
        """The Optuna study, for Optuna's own functions, such as ``optuna.visualization``, and for optuna-dashboard.

        Trials that racing stopped are pruned, and their values are estimates. Numbers of baselines and soups, which are
        no points of the space, have no parameters.
        """
        from mergesearch.search.study.run_folder import RunFolder

        folder = RunFolder(self.folder)
        with folder.reading():
            return folder.open_study(self.config.search.storage)

    @cached_property
    def figures(self) -> "Mapping[str, Figure]":
        """The figures of the run's report by name, as plotly figures; their titles say what they show.

        Raises UserError where the report is lost.
        """
        from mergesearch.search.report.page.saved_figures import figures_of

        return figures_of(self.folder / "report.html")

    def _repr_html_(self) -> str:
        handed_over = ("report.html", "recommended.yml", "best.yml", "model")
        files = [str(self.folder / name) for name in handed_over if (self.folder / name).exists()]
        head = f"<h4>{as_html(self.folder.name)}</h4>"
        return head + self.verdict._repr_html_() + paragraph("In its folder:") + bullets(files)

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

        from mergesearch.search.study import trials as t

        finished = t.finished(self.study)
        if len(finished) < self.verdict.trials:
            raise UserError(
                f"{self.folder}: has {len(finished)} finished trials, its verdict is that of {self.verdict.trials}: "
                "some are lost; bring its study back from a copy, or run the config again"
            )
        table = DataFrame([_row(trial) for trial in finished], index=[trial.number for trial in finished])
        return table.rename_axis("trial")


def _row(trial: "FrozenTrial") -> dict[str, Any]:
    from mergesearch.search.study import trials as t

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
