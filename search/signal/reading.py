"""Reading scores and margins: what each item adds to the objective, graded and in the units of the metric."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mergesearch.evaluators.contract.graded import spread
from mergesearch.search.problem.tasks import Margins, Scores, Task
from mergesearch.search.signal.parts import Part, Parts
from mergesearch.search.statistics import Array, Contrast, Stratum, difference_of

Line = tuple[float, float]
"""(slope, constant): from a graded value to the metric."""
IDENTITY: Line = 1.0, 0.0
Bools = NDArray[np.bool_]
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
    """How a run's candidates are read, each task by itself; the metric where nothing is said of a task."""

    parts: Parts
    by_task: Mapping[str, Reading] = field(default_factory=dict)

    def contributions(self, side: str, scores: Scores, margins: Margins) -> Contributions:
        """What each item of the counted tasks adds to a value. Items whose scores are NaN were not scored."""
        return {
            task.name: self.of_task(task, side, scores[task.name], margins.get(task.name))
            for task in self.parts.tasks.counted(side)
        }

    def of_task(self, task: Task, side: str, scores: Tensor, margins: Tensor | None) -> Array:
        """What each item of the task adds, its margins given where it has any."""
        read, scored = self._grader(task, margins), seen(scores)
        found = np.full(len(scores), np.nan)
        for number, whole in enumerate(self.parts.of(task, side)):
            part = whole.among(scored)
            if read and part.items:
                found[part.places] = read(number, part, scored)
            elif part.items:
                found[part.places] = task.evaluator.contributions(part.items, scores[part.places]).numpy()
        return found

    def _grader(self, task: Task, margins: Tensor | None) -> Callable[[int, Part, Bools], Array] | None:
        """What grades one part of the task by its number, given which items were scored; None for the metric."""
        reading, evaluator = self.by_task.get(task.name), task.graded
        if reading is None or not reading.bandwidth or margins is None or evaluator is None:
            return None

        def read(number: int, part: Part, scored: Bools) -> Array:
            slope, constant = reading.lines[number] if reading.lines else IDENTITY
            scale = reading.bandwidth * spread(margins[scored])
            grades = evaluator.graded_contributions(part.items, margins[part.places], scale)
            return constant + slope * grades.numpy().astype(np.float64)

        return read

    def strata(self, side: str, contributions: Contributions) -> list[Stratum]:
        """Complete contributions in the form in which the objective is compared."""
        return [part.stratum(contributions[task.name]) for task, part in self._all(side)]

    def rows(self, side: str, contributions: Contributions) -> Array:
        """[rows]: the values that the objective takes, from complete contributions."""
        return np.array([part.mean(contributions[task.name]) for task, part in self._all(side)])

    def _all(self, side: str) -> Iterator[tuple[Task, Part]]:
        for task in self.parts.tasks.counted(side):
            for part in self.parts.of(task, side):
                yield task, part


def seen(scores: Tensor) -> Bools:
    """[items]: whether the item was scored."""
    return np.asarray(~np.isnan(scores.numpy().reshape(len(scores), -1)).any(1))


def graded_difference(
    readings: Readings, side: str, one: tuple[Scores, Margins], two: tuple[Scores, Margins]
) -> Contrast:
    """one − two between two candidates' graded objectives on the same items, in units of the metric."""
    first, second = (readings.strata(side, readings.contributions(side, *each)) for each in (one, two))
    return difference_of(first, second, readings.parts.tasks.objective(side).combine)
