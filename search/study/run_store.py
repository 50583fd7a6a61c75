"""A run's folder together with its study."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from math import nan

from optuna.study import Study
from optuna.trial import FrozenTrial
from torch import Tensor

from mergesearch.evaluators import Item
from mergesearch.search.study import trials as t
from mergesearch.search.study.reads import read_once
from mergesearch.search.study.run_folder import RunFolder

Marks = tuple[dict[str, Tensor], dict[str, Tensor]]
"""Scores and margins by task: [items] or [items, k], float64, in the order of the search items; NaN where an item was
not scored."""


@dataclass(frozen=True)
class RunStore:
    """The trials of a run, and the per-item scores of their candidates.

    ``items`` are the search items by task, to which scores belong by id.
    """

    folder: RunFolder
    study: Study
    items: Mapping[str, Sequence[Item]]
    _known: dict[int, Marks] = field(default_factory=dict, init=False, repr=False, compare=False)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the run's lock, under which a database's trials are read once."""
        with self.folder.locked(), read_once(self.study):
            yield

    def scores_of(self, trial: FrozenTrial) -> dict[str, Tensor]:
        """A trial's scores on all search items by task, [items] or [items, k], float64."""
        return self.folder.load_scores(t.scores_name(trial.number), self.items)

    def save_marks(
        self,
        number: int,
        scores: Mapping[str, Tensor],
        items: Mapping[str, Sequence[Item]],
        margins: Mapping[str, Tensor],
    ) -> None:
        """Writes a trial's scores and margins of some search items; ``marks_of`` need not read them again."""
        self.folder.save_scores(t.scores_name(number), scores, items, margins)
        self._known[number] = self._placed(scores, items), self._placed(margins, items)

    def marks_of(self, number: int) -> Marks:
        """The marks of a trial that ``has_marks``."""
        if number not in self._known:
            name = t.scores_name(number)
            self._known[number] = self.folder.load_scores_and_margins(name, self.items, partial=True)
        return self._known[number]

    def has_marks(self, number: int) -> bool:
        """Whether a trial has scores of its own: one that took over those of an identical stopped one has none."""
        return number in self._known or self.folder.has_scores(t.scores_name(number))

    def _placed(self, found: Mapping[str, Tensor], items: Mapping[str, Sequence[Item]]) -> dict[str, Tensor]:
        return {task: self._whole(task, items[task], values.double()) for task, values in found.items()}

    def _whole(self, task: str, items: Sequence[Item], values: Tensor) -> Tensor:
        places = self._places[task]
        whole = values.new_full((len(places), *values.shape[1:]), nan)
        whole[[places[item.id] for item in items]] = values
        return whole

    @cached_property
    def _places(self) -> dict[str, dict[str, int]]:
        return {task: {item.id: place for place, item in enumerate(items)} for task, items in self.items.items()}
