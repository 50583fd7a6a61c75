"""A run's folder together with its study."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optuna.study import Study
from optuna.trial import FrozenTrial
from torch import Tensor

from mergesearch.evaluators import Item
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_folder import RunFolder


@dataclass(frozen=True)
class RunStore:
    """The trials of a run, and the per-item scores of their candidates.

    ``items`` are the search items by task, to which scores belong by id; without them scores are as they were saved.
    """

    folder: RunFolder
    study: Study
    items: Mapping[str, Sequence[Item]] | None = None

    def scores_of(self, trial: FrozenTrial) -> dict[str, Tensor]:
        """A trial's scores on the search items by task, [items] or [items, k], float64."""
        return self.folder.load_scores(t.scores_name(trial.number), self.items)
