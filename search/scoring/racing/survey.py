"""The value of a candidate as a survey finds it: what is foretold of all items, put right by those that were seen.

The mean error on the unseen items is estimated by that on the seen ones, each weighted by the odds of not being drawn
(a difference estimator under unequal probabilities). Its variance is that of the seen errors: it needs no model to be
true. Grades and what the metric is above them are surveyed apart: the latter is known in part from the references.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mergesearch.search.statistics import Array

NOTHING = 1e-12
DOUBT = 4.0
"""By how much the references' metric less grades may vary less than a candidate's, as a factor of the variance."""


@dataclass(frozen=True)
class Survey:
    """What is known of a candidate after a block.

    known: [items], the metric where it was seen, else the foretold grades; grades, biases: [items], 0 where not seen:
    by how much the grades, and the metric less grades, are above what is foretold; typical: [items], the references'
    mean metric less grades; prior: [tasks] mean and [tasks, tasks] covariance of that of the unseen items in the values
    of the tasks; seen: [items]; odds: [items], of not being drawn so far; shares: [tasks, items].
    """

    known: Array
    grades: Array
    biases: Array
    typical: Array
    prior: tuple[Array, Array]
    seen: NDArray[np.bool_]
    odds: Array
    shares: Array

    def combined(self, slopes: Array) -> tuple[float, float]:
        """(value, standard deviation) of a weighted sum of the tasks' values; slopes: [tasks]."""
        weights = slopes @ self.shares
        missing, spread = self._error(weights, self.grades)
        more, variance = self._error(weights, self.biases)
        found = (weights * ~self.seen) @ self.typical + more
        mean, covariance = self.prior
        before = DOUBT * float(slopes @ covariance @ slopes) + NOTHING
        variance += NOTHING
        bias = (variance * float(slopes @ mean) + before * found) / (before + variance)
        deviation = np.sqrt(spread + before * variance / (before + variance))
        return float(weights @ self.known + missing + bias), float(deviation)

    def _error(self, weights: Array, errors: Array) -> tuple[float, float]:
        """The sum of the unseen items' errors and its variance, from those of the seen ones."""
        sizes = np.abs(weights)
        of_seen = sizes * self.seen * self.odds
        if not (total := of_seen.sum()):
            return 0.0, 0.0
        signed, unseen = np.sign(weights) * errors, sizes * ~self.seen
        mean = (of_seen @ signed) / total
        square = (signed - mean) ** 2
        of_mean = unseen.sum() ** 2 * (of_seen**2 @ square) / total**2
        return float(unseen.sum() * mean), float(of_mean + (unseen**2).sum() * (of_seen @ square) / total)
