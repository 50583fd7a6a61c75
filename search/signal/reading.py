"""Reading scores and margins: what each item adds to the objective, graded and in the units of the metric."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mergesearch.evaluators import Item
from mergesearch.evaluators.contract.graded import Graded, spread
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.problem.tasks import Margins, Scores, Task
from mergesearch.search.statistics import Array, Contrast, Stratum, difference_of

Line = tuple[float, float]
"""(slope, constant): from a graded value to the metric."""
IDENTITY: Line = 1.0, 0.0
Contributions = dict[str, Array]
"""Each task's [items]: what each item adds to the task's value, or to that of its part; NaN where it was not scored."""


@dataclass(frozen=True)
class Reading:
    """How the candidates of one task are read.

    Attributes:
        bandwidth: that of the grades; 0 for the metric itself.
        reason: for the user, why.
        lines: for each part of the task, the line from the graded value to the metric.
    """

    bandwidth: float
    reason: str
    lines: Sequence[Line] = ()


@dataclass(frozen=True)
class Readings:
    """How a run's candidates are read, each task by itself."""

    tasks: TaskSet
    by_task: Mapping[str, Reading] = field(default_factory=dict)

    def contributions(self, side: str, scores: Scores, margins: Margins) -> Contributions:
        """What each item of the counted tasks adds to a value. Items whose scores are NaN were not scored."""
        return {
            task.name: self.of_task(task, side, scores[task.name], margins.get(task.name))
            for task in self.tasks.counted(side)
        }

    def of_task(self, task: Task, side: str, scores: Tensor, margins: Tensor | None) -> Array:
        """What each item of the task adds, its margins given where it has any."""
        reading = self.by_task.get(task.name)
        found = np.full(len(scores), np.nan)
        for number, (items, places) in enumerate(seen_parts(task, side, scores)):
            if reading is None or not reading.bandwidth or margins is None or task.graded is None:
                found[places] = task.evaluator.contributions(items, scores[places]).numpy()
            else:
                scale = reading.bandwidth * spread(margins[seen(scores)])
                slope, constant = reading.lines[number] if reading.lines else IDENTITY
                found[places] = constant + slope * graded(task.graded, items, margins[places], scale)
        return found

    def strata(self, side: str, contributions: Contributions) -> list[Stratum]:
        """Complete contributions in the form in which the objective is compared."""
        return [
            Stratum.of(
                [item.fingerprint for item in items],
                [item.weight for item in items],
                contributions[task.name][places].tolist(),
            )
            for task in self.tasks.counted(side)
            for items, places in task.parts(side)
        ]

    def rows(self, side: str, contributions: Contributions) -> Array:
        """[rows]: the values that the objective takes, from complete contributions."""
        return np.array(
            [
                np.average(contributions[task.name][places], weights=[item.weight for item in items])
                for task in self.tasks.counted(side)
                for items, places in task.parts(side)
            ]
        )


def seen(scores: Tensor) -> Tensor:
    """[items]: whether the item was scored."""
    return ~scores.reshape(len(scores), -1).isnan().any(1) if len(scores) else torch.zeros(0, dtype=torch.bool)


def seen_parts(task: Task, side: str, scores: Tensor) -> list[tuple[Sequence[Item], NDArray[np.int64]]]:
    """The task's parts with the items that were scored, and their places among all items."""
    scored, found = seen(scores).numpy(), list[tuple[Sequence[Item], NDArray[np.int64]]]()
    for items, places in task.parts(side):
        chosen = [n for n, place in enumerate(places) if scored[place]]
        found.append(([items[n] for n in chosen], np.array(places, dtype=np.int64)[chosen]))
    return found


def graded(evaluator: Graded, items: Sequence[Item], margins: Tensor, scale: float) -> Array:
    """[items]: grades, shifted such that their weighted mean is the graded value, which may be no mean (F1)."""
    if not items:
        return np.zeros(0)
    grades = evaluator.grades(items, margins, scale).numpy().astype(np.float64)
    mean = np.average(grades, weights=[item.weight for item in items])
    return np.asarray(grades + (evaluator.graded_value(items, margins, scale) - mean))


def graded_difference(
    readings: Readings, side: str, one: tuple[Scores, Margins], two: tuple[Scores, Margins]
) -> Contrast:
    """one − two between two candidates' graded objectives on the same items, in units of the metric."""
    first, second = (readings.strata(side, readings.contributions(side, *each)) for each in (one, two))
    return difference_of(first, second, readings.tasks.objective(side).combine)
