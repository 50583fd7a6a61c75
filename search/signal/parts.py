"""The parts of tasks that the objective takes values of: their items, weights and clusters, looked up once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mergesearch.evaluators import Item
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.problem.tasks import Task
from mergesearch.search.statistics import Array, Stratum

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """Items of one side of a task, whose value is one of the objective's.

    Attributes:
        items: the items.
        places: [items], where they are among the items of the side.
        weights: [items].
        names: [clusters], sorted.
        clusters: [items], the index of each item's cluster.
    """

    items: Sequence[Item]
    places: Ints
    weights: Array
    names: NDArray[np.str_]
    clusters: Ints

    @classmethod
    def of(cls, items: Sequence[Item], places: Sequence[int]) -> "Part":
        """From the items and where they are."""
        names, clusters = np.unique(np.array([item.fingerprint for item in items], dtype=np.str_), return_inverse=True)
        weights = np.array([item.weight for item in items], dtype=np.float64)
        return cls(items, np.array(places, dtype=np.int64), weights, names, clusters)

    def mean(self, contributions: Array) -> float:
        """The value, from what each item of the side contributes."""
        return float(self.weights @ contributions[self.places] / self.weights.sum())

    @property
    def shares(self) -> Array:
        """[items]: each item's share of the weight."""
        shares: Array = self.weights / self.weights.sum()
        return shares

    def stratum(self, contributions: Array) -> Stratum:
        """The same in the form in which values are compared."""
        return Stratum(self.names, self.sums(contributions), self.sizes)

    def sums(self, contributions: Array) -> Array:
        """[clusters]: sums of weight times contribution."""
        products = self.weights * contributions[self.places]
        return np.bincount(self.clusters, products, len(self.names)).astype(np.float64)

    @property
    def sizes(self) -> Array:
        """[clusters]: sums of weight."""
        return np.bincount(self.clusters, self.weights, len(self.names)).astype(np.float64)

    def among(self, scored: NDArray[np.bool_]) -> "Part":
        """Its items that were scored."""
        kept = scored[self.places]
        if kept.all():
            return self
        return Part.of([item for item, keep in zip(self.items, kept, strict=True) if keep], self.places[kept].tolist())


class Parts:
    """The parts of each task of a run, and each task as one part."""

    def __init__(self, tasks: TaskSet) -> None:
        self.tasks = tasks
        self._parts: dict[tuple[str, str], list[Part]] = {}
        self._whole: dict[str, Part] = {}

    def of(self, task: Task, side: str) -> list[Part]:
        """Those of one side of a task; see ``Task.parts``."""
        if (task.name, side) not in self._parts:
            self._parts[task.name, side] = [Part.of(items, places) for items, places in task.parts(side)]
        return self._parts[task.name, side]

    def whole(self, task: Task) -> Part:
        """All search items of a task."""
        if task.name not in self._whole:
            self._whole[task.name] = Part.of(task.search, range(len(task.search)))
        return self._whole[task.name]
