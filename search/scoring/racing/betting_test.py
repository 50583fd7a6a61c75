"""Weighted sampling without replacement: the order of the items, a sequential betting test, and an estimate.

The population is finite: the items of the search split. Items are drawn one after the other, each with a probability
proportional to its *rate* among the remaining items. Let d_i be the contribution of item i to the difference between a
candidate and the incumbent, D = Σ d_i, q_i the probability with which item i was drawn, and p_i its predicted
contribution. Then

    Z = Σ_{drawn before} d_j + Σ_{not drawn before} p_j + (d_i − p_i) / q_i

has expectation D given the past, for any p (Shekhar, Xu, Lipton, Liang & Ramdas, Risk-limiting financial
audits via weighted sampling without replacement, arXiv:2305.06884, section 2, with p = 0; p is a control variate whose
total is known). For any bet 0 ≤ λ < 1 / max Z that is fixed before the draw, Π (1 − λ Z) is a nonnegative
supermartingale while D ≥ 0, and reaches 1/α with probability at most α (Ville's inequality; Waudby-Smith &
Ramdas, Estimating means of bounded random variables by betting, arXiv:2010.09686). This holds for any number
of looks and any d_i. It is exact, and needs only an upper bound of each d_i − p_i.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mergesearch.search.statistics import Array

Ints = NDArray[np.int64]

BETS = np.array([[0.95], [0.5], [0.2]])
"""Fractions of the highest allowed bet; ``STAKES`` divides the test's capital among them."""
STAKES = np.array([0.7, 0.2, 0.1])
EPSILON = 1e-12
HALF_BELIEVED = 8.0
"""The number of items on which a correction has weight one half."""


@dataclass(frozen=True)
class Draws:
    """The order in which items are drawn.

    rates: [items], positive; keys: [items], exponential variables with these rates. Drawing by ascending key is drawing
    with probabilities proportional to the rates of the remaining items (Efraimidis & Spirakis 2006).
    """

    rates: Array
    keys: Array

    @classmethod
    def of(cls, rates: Array, seed: int) -> "Draws":
        return cls(rates, np.random.default_rng(seed).exponential(size=len(rates)) / rates)

    @cached_property
    def order(self) -> Ints:
        """[items]: the items' numbers, the first drawn first."""
        return np.argsort(self.keys, kind="stable")

    @cached_property
    def ordered_rates(self) -> Array:
        return self.rates[self.order]

    @cached_property
    def chances(self) -> Array:
        """[items], in draw order: the probability of each draw given those before it."""
        return self.ordered_rates / _remaining(self.ordered_rates, np.add)

    def inclusion(self, count: int) -> Array:
        """[items]: the probability of each to be among the first ``count`` draws, given the key of the next.

        With these, Σ x_i / π_i over the drawn items is an unbiased estimate of the total of x (Cohen & Kaplan, Tighter
        estimation using bottom k sketches, VLDB 2008, section 4: rank conditioning).
        """
        if count == len(self.order):
            return np.ones(count)
        return np.asarray(-np.expm1(-self.rates * self.keys[self.order[count]]))


@dataclass(frozen=True)
class ExpectedGains:
    """Predicted gains for the draws from number ``begin`` on, fixed before that draw.

    expected, ceilings: [items], in draw order: the predicted gain of each item, and how far above it the gain can be
    (0 or more).
    """

    begin: int
    expected: Array
    ceilings: Array


@dataclass(frozen=True)
class BettingTest:
    """A test of whether a candidate is no better than the incumbent.

    gains: [drawn], candidate − incumbent in draw order. ``fixed`` is the part of the difference that comes from tasks
    scored in full. stages: predictions, the first from draw 0 on.
    """

    draws: Draws
    gains: Array
    stages: Sequence[ExpectedGains]
    fixed: float = 0.0

    @property
    def broken(self) -> bool:
        """Whether an item gained more than its ceiling, which makes the test invalid."""
        return any(
            (self.gains[span] > stage.expected[span] + stage.ceilings[span] + EPSILON).any()
            for stage, span in self._spans
        )

    @cached_property
    def _spans(self) -> list[tuple[ExpectedGains, slice]]:
        """Each stage with its draws."""
        ends = [*(stage.begin for stage in self.stages[1:]), len(self.gains)]
        return [(stage, slice(stage.begin, end)) for stage, end in zip(self.stages, ends, strict=True)]

    @property
    def estimates(self) -> Array:
        """[drawn]: Z of each draw."""
        surprises = [self.gains[span] - stage.expected[span] for stage, span in self._spans]
        foreseen = [_remaining(stage.expected, np.add)[span] for stage, span in self._spans]
        chances = self.draws.chances[: len(self.gains)]
        return np.asarray(self._before[:-1] + np.concatenate(foreseen) + np.concatenate(surprises) / chances)

    @property
    def highest(self) -> Array:
        """[drawn + 1]: the largest possible Z at each draw, and at the next one if there is one, given those before."""
        spans = [*self._spans, (self.stages[-1], slice(len(self.gains), len(self.gains) + 1))]
        parts = [(_remaining(stage.expected, np.add) + self._largest(stage))[span] for stage, span in spans]
        found = np.concatenate(parts)
        return np.asarray(self._before[: len(found)] + found)

    def _largest(self, stage: ExpectedGains) -> Array:
        """[items]: for each draw, the largest possible (gain − prediction) / probability."""
        rates = self.draws.ordered_rates
        return _remaining(stage.ceilings / rates, np.maximum) * _remaining(rates, np.add)

    @cached_property
    def _before(self) -> Array:
        """[drawn + 1]: the observed part of the difference before each draw, and after the last."""
        return self.fixed + np.concatenate([[0.0], np.cumsum(self.gains)])

    @property
    def log_evidence(self) -> float:
        """The logarithm of the largest evidence so far that the candidate is no better than the incumbent.

        A candidate with D > 0 reaches log(1/α) with probability at most α over the draws, for any number of looks.
        Infinity where no outcome of the remaining items could make the candidate better.
        """
        highest = self.highest
        if (highest <= EPSILON).any():
            return np.inf
        growth = np.log1p(-BETS * np.minimum(self.estimates / highest[: len(self.gains)], 1.0))
        capital = np.logaddexp.reduce(np.cumsum(growth, axis=1) + np.log(STAKES)[:, None], axis=0)
        return float(capital.max(initial=0.0))


def estimate(seen: Ints, inclusion: Array, scores: Array, predicted: Array, weights: Array) -> float:
    """An estimate of the weighted mean over all items from the scores of the seen ones.

    scores, inclusion: [seen], the items' scores and inclusion probabilities; predicted, weights: [items]. The estimate
    is the mean of scores and predictions, plus a correction whose weight is one half at ``HALF_BELIEVED`` items and
    tends to one (Särndal, Swensson & Wretman, Model assisted survey sampling, 1992, section 6.4; their ratio of
    weighted sums). Without this shrinkage the estimates of candidates that are stopped early are too low: they are
    stopped where they look worst.
    """
    guess = predicted.copy()
    guess[seen] = scores
    plain = (weights * guess).sum() / weights.sum()
    if not len(seen):
        return float(plain)
    shares = weights[seen] / inclusion
    rest = (shares * (scores - predicted[seen])).sum() / shares.sum()
    corrected = (weights * predicted).sum() / weights.sum() + rest
    belief = len(seen) / (len(seen) + HALF_BELIEVED * (1 - len(seen) / len(weights)))
    return float(plain + belief * (corrected - plain))


def _remaining(values: Array, operation: np.ufunc) -> Array:
    """[items]: the operation over each value and all later ones."""
    return np.asarray(operation.accumulate(values[::-1])[::-1], dtype=np.float64)
