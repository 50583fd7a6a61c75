"""Intervals and tests for weighted means over items, in clusters: items of one cluster stand or fall together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
RESAMPLES = 10_000
CONFIDENCE = 0.95
CHUNK = 2_000_000
"""The most random numbers that are held at once."""


@dataclass(frozen=True)
class Estimate:
    """A value over a sample of items, with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Stratum:
    """One task's items: its share in the whole, and by cluster the sums of ``weight · score`` and of ``weight``."""

    share: float
    sums: Array
    sizes: Array

    @classmethod
    def of(cls, share: float, clusters: Sequence[str], weights: Sequence[float], scores: Sequence[float]) -> "Stratum":
        """Adds up the items of each cluster."""
        _, places = np.unique(np.asarray(clusters), return_inverse=True)
        shares = np.asarray(weights, dtype=np.float64)
        sums, sizes = np.zeros(places.max() + 1), np.zeros(places.max() + 1)
        np.add.at(sizes, places, shares)
        np.add.at(sums, places, shares * np.asarray(scores, dtype=np.float64))
        return cls(share, sums, sizes)

    @property
    def value(self) -> float:
        return float(self.sums.sum() / self.sizes.sum())


def bootstrap(strata: Sequence[Stratum], seed: int) -> Estimate:
    """Σ share · value over the strata, with a percentile interval.

    The clusters of each stratum are drawn with replacement (Efron & Tibshirani, An introduction to the bootstrap, 1993,
    sections 8.3 and 13.3). For a paired comparison give the differences of the scores.
    """
    rng = np.random.default_rng(seed)
    values = np.zeros(RESAMPLES)
    for stratum in strata:
        values += stratum.share * _resampled(stratum, rng)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Estimate(sum(s.share * s.value for s in strata), float(low), float(high))


def _resampled(stratum: Stratum, rng: np.random.Generator) -> Array:
    count = len(stratum.sums)
    rows = max(1, CHUNK // count)
    parts = []
    for start in range(0, RESAMPLES, rows):
        drawn = rng.integers(count, size=(min(rows, RESAMPLES - start), count))
        parts.append(stratum.sums[drawn].sum(1) / stratum.sizes[drawn].sum(1))
    return np.concatenate(parts)


def sign_flip_p(strata: Sequence[Stratum], seed: int) -> float:
    """The two-sided p-value of paired differences under the hypothesis that each cluster's sign is a fair coin's.

    A randomisation test (Fisher, The design of experiments, 1935, section 21) with RESAMPLES draws, the observed one
    counted among them.
    """
    rng = np.random.default_rng(seed)
    gains = np.concatenate([s.share * s.sums / s.sizes.sum() for s in strata])
    observed = abs(gains.sum())
    rows = max(1, CHUNK // len(gains))
    as_large = 0
    for start in range(0, RESAMPLES, rows):
        signs = rng.integers(2, size=(min(rows, RESAMPLES - start), len(gains))) * 2 - 1
        as_large += int((np.abs(signs @ gains) >= observed - 1e-12).sum())
    return (1 + as_large) / (1 + RESAMPLES)
