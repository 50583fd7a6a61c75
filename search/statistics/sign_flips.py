"""One test and its interval, for numbers that are computed from items in clusters, such as questions about one text.

The clusters of all tasks are the independent units; clusters of two tasks that bear the same name are one. Under the
hypothesis that a difference between two candidates is δ, it is chance on which side of δ a cluster falls, so the test
flips the signs of what the clusters add to it (Fisher, The design of experiments, 1935, section 21; in econometrics the
wild cluster bootstrap with the hypothesis imposed, Cameron, Gelbach & Miller, Review of Economics and Statistics 90,
2008). p is that of δ = 0, and the 95 % interval has all δ that the test with level 5 % does not reject: the interval is
without 0 exactly where p < 0.05. See docs/verdict.md for the equations.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Annotated

import numpy as np
from pydantic import BeforeValidator

from mergesearch.search.statistics.contrast import ROUNDING, Array, Contrast

LEVEL = 0.05
PER_LEVEL = 20
"""1 / LEVEL."""
FLIPS = 10_000
"""How many patterns of signs are drawn; of MOST_ENUMERATED clusters or fewer, all patterns are taken."""
MOST_ENUMERATED = 13
CHUNK = 250_000
"""How many signs are in memory at once."""


@dataclass(frozen=True)
class Estimate:
    """A number computed from a sample of items, with its 95 % interval.

    An end is infinite where nothing bounds it, as with fewer than six clusters; in JSON it is null then.
    """

    value: float
    low: Annotated[float, BeforeValidator(lambda end: -inf if end is None else end)]
    high: Annotated[float, BeforeValidator(lambda end: inf if end is None else end)]

    @property
    def is_unbounded(self) -> bool:
        """Whether it has no interval at all."""
        return self.low == -inf and self.high == inf


@dataclass(frozen=True)
class Outcome:
    """A number with its 95 % interval, and its two-sided p of the hypothesis that it is 0.

    ``together`` and ``p_together`` hold for all numbers that were tested together: with a probability of 95 %, all
    these intervals hold the truth (max-t; Westfall & Young, Resampling-based multiple testing, 1993).
    """

    estimate: Estimate
    p: float
    together: Estimate
    p_together: float


@dataclass(frozen=True)
class Reach:
    """How far the test's flips reach: [flips, numbers], below and above, of each number.

    A value of the number is not rejected where it is no farther below the number found than at least 5 % of ``below``,
    nor farther above than at least 5 % of ``above``.
    """

    below: Array
    above: Array

    def estimate(self, value: float, column: int) -> Estimate:
        """The value with its interval."""
        return Estimate(value, value - _bound(self.below[:, column]), value + _bound(self.above[:, column]))

    def p(self, value: float, column: int) -> float:
        """The two-sided p of 0."""
        reached = self.below if value > 0 else self.above
        return float((reached[:, column] >= abs(value)).mean())

    def joint(self, scales: Array) -> "Reach":
        """How far the number reaches that goes farthest by its scale, on the scale of each."""
        sides = []
        for side in (self.below, self.above):
            scaled = np.divide(side, scales, where=scales > 0, out=np.where(np.isinf(side), inf, 0.0))
            farthest = scaled.max(1, keepdims=True)
            sides.append(np.multiply(farthest, scales, where=np.isfinite(farthest), out=np.full(side.shape, inf)))
        return Reach(*sides)


def _bound(reached: Array) -> float:
    """The distance that fewer than 5 % of the flips reach when it is exceeded."""
    last = -(-len(reached) // PER_LEVEL)
    return float(np.partition(reached, len(reached) - last)[len(reached) - last])


def sign_flip_test(contrasts: Sequence[Contrast], seed: int) -> list[Outcome]:
    """Tests every number on its own, and all together; what is the same content is flipped together in all."""
    reach, values = _reach(contrasts, seed), [each.value for each in contrasts]
    joint = reach.joint(np.array([each.standard_error for each in contrasts]))
    return [
        Outcome(reach.estimate(value, n), reach.p(value, n), joint.estimate(value, n), joint.p(value, n))
        for n, value in enumerate(values)
    ]


def estimated(contrast: Contrast, seed: int) -> Estimate:
    """A number with its interval."""
    return sign_flip_test([contrast], seed)[0].estimate


def against_all(differences: Sequence[Outcome]) -> tuple[Estimate, float]:
    """A candidate minus the best of several others, from its differences with each; with its two-sided p.

    The candidate is better than the best where it is better than each, and that may be said at a level where the test
    with every single one, at that level, says so (Berger, Technometrics 24, 1982: an intersection-union test needs no
    correction, and does not depend on which other is the best here). So the lower end is the lowest one, and p is the
    largest. It is worse than the best where it is worse than any, which has as many chances as there are others: the
    upper end is the lowest of those that hold together, and so is p.
    """
    value = min(each.estimate.value for each in differences)
    low, high = (min(each.estimate.low for each in differences), min(each.together.high for each in differences))
    if value > 0:
        return Estimate(value, low, high), max(each.p for each in differences)
    return Estimate(value, low, high), min(each.p_together for each in differences if each.estimate.value <= 0)


def _reach(contrasts: Sequence[Contrast], seed: int) -> Reach:
    """How far each flip reaches.

    Let T be the sum of the flipped residuals, and U that of the flipped shifts. Under a hypothesis at the distance x
    from the number found, the flipped number is T + x U. It is as extreme as the number found, |T + x U| >= |x|, where
    |x| is at most |T| / (1 - U) on the side on which x U and T have the same sign, and |T| / (1 + U) on the other.
    """
    names = np.unique(np.concatenate([each.names for each in contrasts]))
    columns = np.zeros((len(names), 2 * len(contrasts)))
    for n, each in enumerate(contrasts):
        columns[np.searchsorted(names, each.names), n :: len(contrasts)] = each.columns
    total = columns.sum(0)
    flipped = [total - 2 * (flips @ columns) for flips in _flips(len(names), seed)]
    sides = [_sides(*np.hsplit(each, 2)) for each in flipped]
    return Reach(*(np.concatenate(parts) for parts in zip(*sides, strict=True)))


def _sides(residuals: Array, shifts: Array) -> tuple[Array, Array]:
    """See ``_reach``; a flip that changes no shift, or all, bounds nothing."""
    along, sizes = np.sign(residuals) * shifts, np.abs(residuals) * (1 + ROUNDING)
    is_bound = np.abs(shifts) < 1 - ROUNDING
    rest = np.where(is_bound, along, 0.0)
    return np.where(is_bound, sizes / (1 - rest), np.inf), np.where(is_bound, sizes / (1 + rest), np.inf)


def _flips(clusters: int, seed: int) -> Iterator[Array]:
    """[rows, clusters] each, 1 where the sign changes: all patterns, or as many as are drawn, and that of no change."""
    if clusters <= MOST_ENUMERATED:
        patterns = np.arange(2 ** (clusters - 1))[:, None] >> np.arange(clusters) & 1
        yield patterns.astype(np.float64)
        return
    rng, rows = np.random.default_rng(seed), max(1, CHUNK // clusters)
    yield np.zeros((1, clusters))
    for start in range(1, FLIPS, rows):
        shape = (min(rows, FLIPS - start), clusters)
        bits = np.frombuffer(rng.bytes((shape[0] * clusters + 7) // 8), dtype=np.uint8)
        yield np.unpackbits(bits, count=shape[0] * clusters).reshape(shape).astype(np.float64)


def detectable_difference(standard_error: float, degrees: float, power: float = 0.8) -> float:
    """The smallest true difference that the test proves with this probability, about.

    By Student's t with the degrees of freedom of the standard error; see ``Contrast``.
    """
    from scipy import stats

    return float(standard_error * (stats.t.ppf(1 - LEVEL / 2, degrees) + stats.t.ppf(power, degrees)))
