"""What candidates that were scored in full tell of a raced one: the metric of its items, foretold from its grades.

Grades say more than right or wrong, so they are foretold, and what the metric is above them is added as it was in the
references. What decisions contribute is between 0 and 1, and so is what is foretold of it.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mergesearch.search.signal.foresight import Foresight, Foretold, Ints, by_task, pooled
from mergesearch.search.statistics import Array

WIDEST = 6.0
"""What is no decision is taken to be above what is foretold by at most so many standard deviations of its noise."""


@dataclass(frozen=True)
class References:
    """Candidates that were scored in full.

    grades, metric: [references, items], contributions of the items of all tasks; equal where there are no margins; no
    two references have the same grades. tasks: [items], the number of each item's task.
    """

    grades: Array
    metric: Array
    tasks: Ints

    @cached_property
    def _foresight(self) -> Foresight:
        return Foresight(self.grades, self.tasks)

    @cached_property
    def decisions(self) -> NDArray[np.bool_]:
        """[items]: whether they are right or wrong, 1 or 0, in all references."""
        other = ((self.metric != 0) & (self.metric != 1)).any(0)
        return np.asarray(by_task(other.astype(float), self.tasks) == 0)

    @cached_property
    def _above(self) -> Array:
        """[references, items]: what the metric is above the grades."""
        return self.metric - self.grades

    @cached_property
    def spread(self) -> Array:
        """[items], positive: the standard deviation of the metric about what is foretold."""
        several = len(self.metric) / max(1, len(self.metric) - 1)
        apart = (self._above - self._above.mean(0)) * several
        return np.asarray(np.sqrt(pooled((self._foresight.left_out + apart) ** 2, self.tasks)))

    def foretell(self, grades: Array) -> Foretold:
        """A candidate's grades, [items], NaN where an item was not seen."""
        return self._foresight.foretell(grades)

    def metric_of(self, foretold: Foretold) -> Array:
        """[items]: the metric that is expected with the grades."""
        found = foretold.expected + self._above.mean(0)
        return np.asarray(np.where(self.decisions, np.clip(found, 0.0, 1.0), found))

    def error(self, foretold: Foretold, weights: Array) -> float:
        """The standard deviation of a weighted sum of the metric; weights: [items], 0 for those that were seen."""
        return float(np.sqrt(foretold.variance(weights) + weights**2 @ self._above.var(0)))

    def spreads(self, foretold: Foretold) -> Array:
        """[items]: the standard deviation of the metric about what is expected of this candidate."""
        if self.decisions.all():
            return self.spread
        return np.asarray(np.where(self.decisions, self.spread, np.maximum(self.spread, foretold.deviation)))

    def room(self, weights: Array, expected: Array, spreads: Array) -> Array:
        """[items]: by how much at most an item adds more than is expected to a sum with these weights."""
        decided = np.maximum(weights * (1 - expected), -weights * expected)
        return np.asarray(np.where(self.decisions, decided, WIDEST * np.abs(weights) * spreads))

    @cached_property
    def usual_metric(self) -> Array:
        """[items]: the mean over the references and, as one more of them, the task's mean."""
        mean, count = self.metric.mean(0), len(self.metric)
        return np.asarray((count * mean + by_task(mean, self.tasks)) / (count + 1))
