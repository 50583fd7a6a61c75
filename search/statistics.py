"""Intervals and tests for weighted means over items, in clusters: items of one cluster stand or fall together."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Combine = Callable[[Array], Array]
"""[strata, ...] values -> [...], the number that counts; see ``Objective.combine``."""
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
    """One task's items: by cluster the sums of ``weight · contribution`` and of ``weight``."""

    sums: Array
    sizes: Array

    @classmethod
    def of(cls, clusters: Sequence[str], weights: Sequence[float], contributions: Sequence[float]) -> "Stratum":
        """Adds up the items of each cluster."""
        _, places = np.unique(np.asarray(clusters), return_inverse=True)
        shares = np.asarray(weights, dtype=np.float64)
        sums, sizes = np.zeros(places.max() + 1), np.zeros(places.max() + 1)
        np.add.at(sizes, places, shares)
        np.add.at(sums, places, shares * np.asarray(contributions, dtype=np.float64))
        return cls(sums, sizes)

    @property
    def value(self) -> float:
        return float(self.sums.sum() / self.sizes.sum())


def bootstrap(strata: Sequence[Stratum], combine: Combine, seed: int) -> Estimate:
    """What ``combine`` makes of the strata's values, with a percentile interval.

    The clusters of each stratum are drawn with replacement (Efron & Tibshirani, An introduction to the bootstrap, 1993,
    sections 8.3 and 13.3).
    """
    return _estimate(_combined(strata, combine), combine(_resampled(strata, seed)))


def bootstrap_difference(one: Sequence[Stratum], two: Sequence[Stratum], combine: Combine, seed: int) -> Estimate:
    """``bootstrap`` of one candidate's value less another's on the same items: both see the same draws."""
    resampled = combine(_resampled(one, seed)) - combine(_resampled(two, seed))
    return _estimate(_combined(one, combine) - _combined(two, combine), resampled)


def _combined(strata: Sequence[Stratum], combine: Combine) -> float:
    return float(combine(np.array([stratum.value for stratum in strata])))


def _estimate(value: float, resampled: Array) -> Estimate:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Estimate(value, float(low), float(high))


def _resampled(strata: Sequence[Stratum], seed: int) -> Array:
    """[strata, RESAMPLES]: each stratum's value over clusters drawn anew."""
    rng = np.random.default_rng(seed)
    return np.stack([_resampled_values(stratum, rng) for stratum in strata])


def _resampled_values(stratum: Stratum, rng: np.random.Generator) -> Array:
    count = len(stratum.sums)
    parts = []
    for rows in _chunks(count):
        drawn = rng.integers(count, size=(rows, count))
        parts.append(stratum.sums[drawn].sum(1) / stratum.sizes[drawn].sum(1))
    return np.concatenate(parts)


def _chunks(width: int) -> Iterator[int]:
    """Numbers of rows that add up to RESAMPLES, so that no more than CHUNK numbers are held at once."""
    rows = max(1, CHUNK // width)
    for start in range(0, RESAMPLES, rows):
        yield min(rows, RESAMPLES - start)


def swap_p(one: Sequence[Stratum], two: Sequence[Stratum], combine: Combine, seed: int) -> float:
    """The two-sided p-value of a difference, were it a coin's which candidate gave which of a cluster's two answers.

    A randomisation test (Fisher, The design of experiments, 1935, section 21) with RESAMPLES draws, the observed one
    counted among them; for a mean it is the test by flipping the signs of paired differences.
    """
    rng = np.random.default_rng(seed)
    width = sum(len(stratum.sums) for stratum in one)
    observed = abs(_combined(one, combine) - _combined(two, combine))
    as_large = 0
    for rows in _chunks(width):
        signs = rng.integers(2, size=(rows, width)) * 2 - 1
        as_large += int((np.abs(_swapped_differences(one, two, combine, signs)) >= observed - 1e-12).sum())
    return (1 + as_large) / (1 + RESAMPLES)


def _swapped_differences(
    one: Sequence[Stratum], two: Sequence[Stratum], combine: Combine, signs: NDArray[np.int64]
) -> Array:
    """[rows]: the difference where the clusters with sign -1 have changed sides; signs: [rows, clusters]."""
    bounds = np.cumsum([len(stratum.sums) for stratum in one])[:-1]
    sides: tuple[list[Array], list[Array]] = ([], [])
    for a, b, flips in zip(one, two, np.split(signs, bounds, axis=1), strict=True):
        middle, half = (a.sums + b.sums).sum() / 2, flips @ (a.sums - b.sums) / 2
        sides[0].append((middle + half) / a.sizes.sum())
        sides[1].append((middle - half) / a.sizes.sum())
    return combine(np.stack(sides[0])) - combine(np.stack(sides[1]))


def holm(values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, in the order given (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    corrected, highest = list(values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[index]))
        corrected[index] = highest
    return corrected
