"""What a candidate's score on an item is expected to be, from the baselines' scores and from its items so far.

Merges of the same models answer much alike: a candidate's scores are nearly a mixture of the baselines'. So for scores
without bounds (margins, bits per byte) a race looks only at what such a mixture does not explain.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
SLACK = 1.25
"""How far beyond the largest surprise so far the next is trusted to stay."""
LEAST = 1e-3
"""The least noise, as a part of the baselines' mean range."""
RIDGE = 1e-3
SHRINKAGE = 4.0
"""How many imagined baselines say that an item's noise is the task's."""
NOTHING = 1e-9


@dataclass(frozen=True)
class Forecast:
    """[items] each, of candidate − incumbent: what is expected, and how far below and above that it can be."""

    expected: Array
    down: Array
    up: Array

    @classmethod
    def joined(cls, forecasts: "Sequence[Forecast]", shares: Sequence[Array]) -> "Forecast":
        """Several tasks' behind each other, each times what a unit of an item counts."""
        parts = [
            (share * one.expected, share * one.down, share * one.up)
            for one, share in zip(forecasts, shares, strict=True)
        ]
        return cls(*map(np.concatenate, zip(*parts, strict=True)))

    def ordered(self, order: NDArray[np.int64], slopes: Array) -> tuple[Array, Array]:
        """In an order, times ``slopes`` in that order: what is expected, and how far above that it can be."""
        ceilings = np.maximum(slopes * self.up[order], -slopes * self.down[order])
        return slopes * self.expected[order], ceilings


@dataclass(frozen=True)
class Forecaster:
    """Bayesian linear regression on the baselines' scores, [baselines, items].

    With b̄ the baselines' mean, candidate − incumbent = a + u (b̄ − incumbent) + Σ w_k (b_k − b̄) + noise. A priori the
    w_k are normal with variance 1 / (baselines − 1), so that candidates spread as the baselines do (the best linear
    unbiased predictor of a random vector with their mean and covariance), and u with variance 1. The noise of an item
    is as the baselines', each predicted from the others. Surprises are counted in standard deviations of what is
    predicted: of the noise, and of what is not known of the coefficients.
    """

    baselines: Array

    @cached_property
    def noise(self) -> Array:
        """[items], positive: the standard deviation of what others do not explain, shrunk to the task's."""
        square = self._left_out**2
        return self._scale(square.sum(0), len(square))

    @cached_property
    def largest(self) -> float:
        """The largest surprise of a baseline, in units of the noise as the others tell it."""
        square = self._left_out**2
        return float((np.abs(self._left_out) / self._scale(square.sum(0) - square, len(square) - 1)).max())

    def _scale(self, sums: Array, count: int) -> Array:
        """From sums of so many squares."""
        least = max(LEAST * np.ptp(self.baselines, axis=0).mean(), NOTHING)
        typical = (self._left_out**2).mean()
        return np.asarray(np.sqrt((sums + SHRINKAGE * typical) / (count + SHRINKAGE) + least**2))

    @cached_property
    def _left_out(self) -> Array:
        """[baselines, items]: each baseline less what the others explain of it."""
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

    def forecast(self, incumbent: Array, seen: NDArray[np.int64], gains: Array) -> Forecast:
        """After the items ``seen``, with what they gave: ``gains`` of the candidate over the incumbent."""
        x = self._features(incumbent)
        precision = np.eye(x.shape[1]) + (x[seen] / self.noise[seen, None] ** 2).T @ x[seen]
        covariance = np.linalg.inv(precision)
        expected = x @ (covariance @ (x[seen].T @ (gains / self.noise[seen] ** 2)))
        leverage = ((x @ covariance) * x).sum(1) / self.noise**2
        surprises = np.abs(gains - expected[seen]) / (
            self.noise[seen] * np.sqrt(np.maximum(1 - leverage[seen], NOTHING))
        )
        largest = max(self.largest, surprises.max(initial=0.0))
        reach = SLACK * largest * self.noise * np.sqrt(1 + leverage)
        return Forecast(expected, reach, reach)

    def _features(self, incumbent: Array) -> Array:
        """[items, baselines + 2], scaled so that every coefficient has a variance of 1 beforehand."""
        mean = self.baselines.mean(0)
        apart = self.baselines - mean
        spread = np.sqrt((apart**2).mean())
        width = max(1, len(self.baselines) - 1)
        return np.vstack([np.full(len(mean), spread), mean - incumbent, apart / np.sqrt(width)]).T
