"""Predicts a candidate's gain on each item from the baselines' scores and from the items scored so far.

Merges of the same models give similar answers: a candidate's scores are close to a linear combination of the
baselines'. For unbounded scores (margins, bits per byte) a race therefore bets on the residuals of such a combination.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mergesearch.search.statistics import Array

SLACK = 1.25
"""The bound on future residuals, as a multiple of the largest residual so far."""
LEAST = 1e-3
"""The least noise, as a fraction of the baselines' mean range."""
RIDGE = 1e-3
SHRINKAGE = 4.0
"""The weight of the task's mean noise in an item's, in number of baselines."""
NOTHING = 1e-9


@dataclass(frozen=True)
class Prediction:
    """[items] each, of candidate − incumbent: the expected gain, and how far below and above it the gain can be."""

    expected: Array
    down: Array
    up: Array

    @classmethod
    def joined(cls, predictions: "Sequence[Prediction]", shares: Sequence[Array]) -> "Prediction":
        """The predictions of several tasks concatenated, each scaled by the share of its items in the task's value."""
        parts = [
            (share * one.expected, share * one.down, share * one.up)
            for one, share in zip(predictions, shares, strict=True)
        ]
        return cls(*map(np.concatenate, zip(*parts, strict=True)))

    def ordered(self, order: NDArray[np.int64], slopes: Array) -> tuple[Array, Array]:
        """Expected gains and ceilings, reordered and multiplied by ``slopes``, which are in that order."""
        ceilings = np.maximum(slopes * self.up[order], -slopes * self.down[order])
        return slopes * self.expected[order], ceilings


@dataclass(frozen=True)
class GainPredictor:
    """Bayesian linear regression on the baselines' scores, [baselines, items].

    With b̄ the baselines' mean, candidate − incumbent = a + u (b̄ − incumbent) + Σ w_k (b_k − b̄) + noise. A priori the
    w_k are normal with variance 1 / (baselines − 1), so that candidates spread as the baselines do (the best linear
    unbiased predictor of a random vector with their mean and covariance), and u with variance 1. The noise of an item
    is that of the baselines, each predicted from the others. Residuals are measured in standard deviations of the
    prediction: noise and uncertainty of the coefficients together.
    """

    baselines: Array

    @cached_property
    def noise(self) -> Array:
        """[items], positive: the standard deviation of the baselines' residuals, shrunk to the task's mean."""
        square = self._left_out**2
        return self._scale(square.sum(0), len(square))

    @cached_property
    def largest(self) -> float:
        """The largest residual of a baseline, in units of the noise estimated from the other baselines."""
        square = self._left_out**2
        return float((np.abs(self._left_out) / self._scale(square.sum(0) - square, len(square) - 1)).max())

    def _scale(self, sums: Array, count: int) -> Array:
        """Standard deviations from sums of ``count`` squares."""
        least = max(LEAST * np.ptp(self.baselines, axis=0).mean(), NOTHING)
        typical = (self._left_out**2).mean()
        return np.asarray(np.sqrt((sums + SHRINKAGE * typical) / (count + SHRINKAGE) + least**2))

    @cached_property
    def _left_out(self) -> Array:
        """[baselines, items]: each baseline minus its prediction from the others."""
        return np.stack([self._unexplained(n) for n in range(len(self.baselines))])

    def _unexplained(self, number: int) -> Array:
        others = np.delete(self.baselines, number, axis=0)
        mean = others.mean(0) if len(others) else np.zeros(others.shape[1])
        x = np.vstack([np.ones(others.shape[1]), others - mean]).T
        y = self.baselines[number] - mean
        gram = x.T @ x
        ridge = RIDGE * np.trace(gram) / len(gram)
        inverse = np.linalg.inv(gram + ridge * np.eye(len(gram)))
        leverage = ((x @ inverse) * x).sum(1)
        return np.asarray((y - x @ (inverse @ (x.T @ y))) / (1 - leverage))

    def predict(self, incumbent: Array, seen: NDArray[np.int64], gains: Array) -> Prediction:
        """The prediction for all items from the candidate's ``gains`` over the incumbent on the ``seen`` items."""
        x = self._features(incumbent)
        precision = np.eye(x.shape[1]) + (x[seen] / self.noise[seen, None] ** 2).T @ x[seen]
        covariance = np.linalg.inv(precision)
        expected = x @ (covariance @ (x[seen].T @ (gains / self.noise[seen] ** 2)))
        leverage = ((x @ covariance) * x).sum(1) / self.noise**2
        residuals = np.abs(gains - expected[seen]) / (
            self.noise[seen] * np.sqrt(np.maximum(1 - leverage[seen], NOTHING))
        )
        largest = max(self.largest, residuals.max(initial=0.0))
        reach = SLACK * largest * self.noise * np.sqrt(1 + leverage)
        return Prediction(expected, reach, reach)

    def _features(self, incumbent: Array) -> Array:
        """[items, baselines + 2], scaled so that every coefficient has prior variance 1."""
        mean = self.baselines.mean(0)
        apart = self.baselines - mean
        spread = np.sqrt((apart**2).mean())
        width = max(1, len(self.baselines) - 1)
        return np.vstack([np.full(len(mean), spread), mean - incumbent, apart / np.sqrt(width)]).T
