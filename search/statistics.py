"""Intervals and tests for weighted means over items in clusters, such as questions about the same text."""

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
"""How many random numbers are in memory at once."""


@dataclass(frozen=True)
class Estimate:
    """A value over a sample of items, with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Stratum:
    """One task's items, added up by cluster: ``sums`` of weight times contribution, and ``sizes``, sums of weight.

    Both are [clusters]. The value of the stratum is the weighted mean of the contributions.
    """

    sums: Array
    sizes: Array

    @classmethod
    def of(cls, clusters: Sequence[str], weights: Sequence[float], contributions: Sequence[float]) -> "Stratum":
        """From the cluster, the weight and the contribution of each item."""
        _, indices = np.unique(np.asarray(clusters), return_inverse=True)
        shares = np.asarray(weights, dtype=np.float64)
        sums, sizes = np.zeros(indices.max() + 1), np.zeros(indices.max() + 1)
        np.add.at(sizes, indices, shares)
        np.add.at(sums, indices, shares * np.asarray(contributions, dtype=np.float64))
        return cls(sums, sizes)

    @property
    def value(self) -> float:
        return float(self.sums.sum() / self.sizes.sum())


def bootstrap(strata: Sequence[Stratum], combine: Combine, seed: int) -> Estimate:
    """``combine`` of the strata's values, with a percentile interval.

    The clusters of each stratum are drawn with replacement (Efron & Tibshirani, An introduction to the bootstrap, 1993,
    sections 8.3 and 13.3). A stratum with one cluster does not vary.
    """
    return _estimate(strata, lambda draws: combine(_values(strata, draws)), seed)


def bootstrap_difference(one: Sequence[Stratum], two: Sequence[Stratum], combine: Combine, seed: int) -> Estimate:
    """``bootstrap`` of the difference one - two between two candidates; the same items are drawn for both."""
    return _estimate(one, lambda draws: combine(_values(one, draws)) - combine(_values(two, draws)), seed)


Resamples = Sequence[NDArray[np.int64]]
"""For each stratum, indices of its clusters, [..., clusters]."""


def _values(strata: Sequence[Stratum], draws: Resamples) -> Array:
    """[strata, ...]: each stratum's value over the clusters that were drawn."""
    pairs = zip(strata, draws, strict=True)
    return np.stack([stratum.sums[drawn].sum(-1) / stratum.sizes[drawn].sum(-1) for stratum, drawn in pairs])


def _estimate(strata: Sequence[Stratum], statistic: Callable[[Resamples], Array], seed: int) -> Estimate:
    """The statistic of the strata's clusters, with the percentile interval of its bootstrap distribution."""
    from scipy import stats

    clusters = [np.arange(len(stratum.sums)) for stratum in strata]
    interval = stats.bootstrap(
        # scipy refuses samples of one: the one cluster, twice, has the same value
        [indices if len(indices) > 1 else indices.repeat(2) for indices in clusters],
        lambda *draws, axis: statistic(draws),  # noqa: ARG005 - scipy always passes axis=-1
        n_resamples=RESAMPLES,
        batch=_rows(strata),
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(float(statistic(clusters)), float(interval.low), float(interval.high))


def _rows(strata: Sequence[Stratum]) -> int:
    """How many resamples of all clusters are made at once."""
    return max(1, CHUNK // sum(len(stratum.sums) for stratum in strata))


def swap_p(one: Sequence[Stratum], two: Sequence[Stratum], combine: Combine, seed: int) -> float:
    """The two-sided p-value of the difference between two candidates on the same items.

    A randomization test (Fisher, The design of experiments, 1935, section 21): under the null hypothesis, it is chance
    which of the two results of a cluster belongs to which candidate. RESAMPLES times, the results of each cluster
    change sides with probability 1/2; the observed difference counts as one more resample. For a mean this is the test
    that flips the signs of paired differences.

    It is ``scipy.stats.permutation_test`` of the absolute difference with ``permutation_type="samples"``, which took 7
    to 35 times as long, because it permutes each pair instead of multiplying by signs.
    """
    rng = np.random.default_rng(seed)
    clusters = sum(len(stratum.sums) for stratum in one)
    observed = abs(_combined(one, combine) - _combined(two, combine))
    as_large = 0
    for rows in _chunks(_rows(one)):
        signs = rng.integers(2, size=(rows, clusters)) * 2 - 1
        as_large += int((np.abs(_swapped_differences(one, two, combine, signs)) >= observed - 1e-12).sum())
    return (1 + as_large) / (1 + RESAMPLES)


def _combined(strata: Sequence[Stratum], combine: Combine) -> float:
    return float(combine(np.array([stratum.value for stratum in strata])))


def _chunks(rows: int) -> Iterator[int]:
    """Numbers of at most ``rows`` that add up to RESAMPLES."""
    for start in range(0, RESAMPLES, rows):
        yield min(rows, RESAMPLES - start)


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
