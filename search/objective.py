"""What a search maximises: one number from the values of its tasks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mergesearch.evaluators import Metric

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Share:
    """One task's part in the objective."""

    weight: float
    metric: Metric


@dataclass(frozen=True)
class Objective:
    """The mean of the tasks' values by weight, those that are better when lower with their sign turned."""

    shares: Sequence[Share]

    def combine(self, values: Array) -> Array:
        """[tasks, ...] float64, the tasks' values of candidates or resamples -> [...], higher is better."""
        signs = np.array([1.0 if share.metric.higher_is_better else -1.0 for share in self.shares])
        weights = np.array([share.weight for share in self.shares])
        result: Array = np.tensordot(signs * weights / weights.sum(), values, 1)
        return result
