"""Numbers computed from items in clusters, and what each cluster adds to them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Combine = Callable[[Array], Array]
"""[strata, ...] values -> [...], the number that counts; see ``Objective.combine``."""
ROUNDING = 1e-9


@dataclass(frozen=True)
class Stratum:
    """One task's items, added up by cluster: ``sums`` of weight times contribution, and ``sizes``, sums of weight.

    All are [clusters]. The value of the stratum is the weighted mean of the contributions.
    """

    clusters: NDArray[np.str_]
    sums: Array
    sizes: Array

    @classmethod
    def of(cls, clusters: Sequence[str], weights: Sequence[float], contributions: Sequence[float]) -> "Stratum":
        """From the cluster, the weight and the contribution of each item."""
        names, indices = np.unique(np.asarray(clusters, dtype=np.str_), return_inverse=True)
        shares = np.asarray(weights, dtype=np.float64)
        products = shares * np.asarray(contributions, dtype=np.float64)
        sums, sizes = (np.bincount(indices, each).astype(np.float64) for each in (products, shares))
        return cls(names, sums, sizes)

    @property
    def value(self) -> float:
        return float(self.sums.sum() / self.sizes.sum())

    @property
    def shares(self) -> Array:
        """[clusters]: each cluster's share of the weight."""
        shares: Array = self.sizes / self.sizes.sum()
        return shares

    @property
    def influence(self) -> Array:
        """[clusters]: what each cluster adds to the deviation of the value from the truth; their sum is 0."""
        influence: Array = (self.sums - self.value * self.sizes) / self.sizes.sum()
        return influence


@dataclass(frozen=True)
class Contrast:
    """A number computed from strata, and what each cluster of each stratum adds to its deviation from the truth.

    ``clusters``, ``shares`` (of their strata's weights) and ``influence`` have an array for each stratum. The influence
    is linearised: exact for means; for other objectives the slopes are secants as wide as the standard errors.
    """

    value: float
    clusters: Sequence[NDArray[np.str_]]
    shares: Sequence[Array]
    influence: Sequence[Array]

    @cached_property
    def variance_shares(self) -> Array:
        """[strata]: each stratum's share of the variance; they add up to 1. NaN where nothing varies.

        Strata that share clusters have covariances, half of each counts for either; a share may be negative then.
        """
        adjusted = [part / _root(1 - share) for part, share in zip(self.influence, self.shares, strict=True)]
        total = self._by_cluster(adjusted)
        covariances = np.array([part @ total[place] for part, place in zip(adjusted, self._places, strict=True)])
        with np.errstate(invalid="ignore"):
            found: Array = covariances / covariances.sum()
        return found

    @cached_property
    def standard_error(self) -> float:
        """The cluster-robust standard error; of means it is CR2 (Bell & McCaffrey, Survey Methodology 28, 2002)."""
        adjusted = [part / _root(1 - share) for part, share in zip(self.influence, self.shares, strict=True)]
        return float(np.sqrt(np.square(self._by_cluster(adjusted)).sum()))

    @cached_property
    def degrees(self) -> float:
        """The degrees of freedom of the standard error (Welch, Biometrika 34, 1947).

        Clusters of unequal sizes count as fewer.
        """
        counts = np.array([1 / np.square(share).sum() for share in self.shares])
        shares = np.nan_to_num(self.variance_shares, nan=1 / len(counts))
        with np.errstate(divide="ignore"):
            return float(1 / (np.square(shares) / (counts - 1)).sum())

    @cached_property
    def names(self) -> NDArray[np.str_]:
        """All clusters, in order, each once."""
        return np.unique(np.concatenate(self.clusters))

    @cached_property
    def columns(self) -> Array:
        """[names, 2]: what the test flips: residuals under the hypothesis, and what one unit of δ adds to them.

        A difference that is tested is spread over the strata such that their values are as likely as they can be (by
        their variances); the residuals are from there, and scaled up by what the other values of the strata took.
        """
        weights = np.nan_to_num(self.variance_shares, nan=1 / len(self.shares))
        pairs = list(zip(self.influence, self.shares, weights, strict=True))
        residuals = [part / _root(1 - share * min(1.0, max(0.0, 1 - weight))) for part, share, weight in pairs]
        shifts = [share * weight for _, share, weight in pairs]
        return np.stack([self._by_cluster(residuals), self._by_cluster(shifts)], axis=1)

    @cached_property
    def _places(self) -> list[NDArray[np.int64]]:
        return [np.searchsorted(self.names, clusters) for clusters in self.clusters]

    def _by_cluster(self, parts: Sequence[Array]) -> Array:
        total = np.zeros(len(self.names))
        for part, place in zip(parts, self._places, strict=True):
            total[place] += part
        return total


def _root(values: Array) -> Array:
    """The square root; 1 where a cluster is all that its stratum has, which then has no residuals."""
    return np.sqrt(np.where(values > ROUNDING, values, 1.0))


def value_of(strata: Sequence[Stratum], combine: Combine) -> Contrast:
    """``combine`` of the strata's values. A stratum with one cluster does not vary."""
    return _contrast(_combined(strata, combine), strata, _influence(strata, combine))


def difference_of(one: Sequence[Stratum], two: Sequence[Stratum], combine: Combine) -> Contrast:
    """one − two between two candidates on the same items. A stratum with one cluster may have any sign."""
    parts = zip(_influence(one, combine), _influence(two, combine), strict=True)
    influence = [first - second for first, second in parts]
    slopes = _slopes(one, combine)
    for index, (first, second) in enumerate(zip(one, two, strict=True)):
        if len(first.sums) == 1:
            influence[index] = np.array([slopes[index] * (first.value - second.value)])
    return _contrast(_combined(one, combine) - _combined(two, combine), one, influence)


def _contrast(value: float, strata: Sequence[Stratum], influence: Sequence[Array]) -> Contrast:
    return Contrast(value, [each.clusters for each in strata], [each.shares for each in strata], influence)


def _combined(strata: Sequence[Stratum], combine: Combine) -> float:
    return float(combine(np.array([stratum.value for stratum in strata])))


def _influence(strata: Sequence[Stratum], combine: Combine) -> list[Array]:
    slopes = _slopes(strata, combine)
    return [slope * stratum.influence for slope, stratum in zip(slopes, strata, strict=True)]


def _slopes(strata: Sequence[Stratum], combine: Combine) -> Array:
    """[strata]: how fast the number grows with each value, by a secant from one standard error below to one above."""
    values = np.array([stratum.value for stratum in strata])
    errors = np.array([np.sqrt(np.square(stratum.influence).sum()) for stratum in strata])
    steps = np.where(errors > 0, errors, 1e-3 * np.maximum(1.0, np.abs(values)))
    ends = values[:, None] + np.concatenate([np.diag(steps), -np.diag(steps)], axis=1)
    upper, lower = np.split(combine(ends), 2)
    slopes: Array = (upper - lower) / (2 * steps)
    return slopes
