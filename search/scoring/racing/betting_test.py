"""Weighted draws without replacement: the order, a test that may be looked at after every draw, and an estimate.

The population is finite: the items of the search split. Items are drawn one after the other, each with a chance that
is proportional to its *rate* among those that are left. With d_i what item i adds to the difference between a candidate
and the incumbent, D = Σ d_i, q_i the chance with which item i was drawn, and p_i what was expected of it beforehand,

    Z = Σ_{drawn before} d_j + Σ_{not drawn before} p_j + (d_i − p_i) / q_i

has the expectation D given the past, whatever the p (Shekhar, Xu, Lipton, Liang & Ramdas, Risk-limiting financial
audits via weighted sampling without replacement, arXiv:2305.06884, section 2, with p = 0; p is a control variate whose
total is known). So with any bet 0 ≤ λ < 1 / max Z that is settled before the draw, Π (1 − λ Z) is a nonnegative
supermartingale as long as D ≥ 0, and ever reaches 1/α with probability at most α (Ville's inequality; Waudby-Smith &
Ramdas, Estimating means of bounded random variables by betting, arXiv:2010.09686). However often one looks, and
whatever the d_i: no approximation, only an upper bound of each d_i − p_i.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

BETS = np.array([[0.95], [0.5], [0.2]])
"""Shares of the highest bet that is allowed; the test's capital is divided among them by ``STAKES``."""
STAKES = np.array([0.7, 0.2, 0.1])
NOTHING_LEFT = 1e-12
BELIEVED = 8.0
"""On how many items a correction must be seen to be believed by half."""


@dataclass(frozen=True)
class Draws:
    """Items in the order in which they are drawn.

    rates: [items], positive; keys: [items], exponential variables with these rates. Drawing by ascending key is drawing
    with chances proportional to the rates among the items left (Efraimidis & Spirakis 2006).
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
        """[items], in the order: the chance of each draw given those before it."""
        return self.ordered_rates / _to_come(self.ordered_rates, np.add)

    def inclusion(self, count: int) -> Array:
        """[items]: each one's chance to be among the first ``count``, given the key of the next.

        With these, Σ x_i / π_i over the drawn is an unbiased estimate of any items' total (Cohen & Kaplan, Tighter
        estimation using bottom k sketches, VLDB 2008, section 4: rank conditioning).
        """
        if count == len(self.order):
            return np.ones(count)
        return np.asarray(-np.expm1(-self.rates * self.keys[self.order[count]]))


@dataclass(frozen=True)
class Stage:
    """What is expected of the draws from the one numbered ``begin`` on, settled before it.

    expected, ceilings: [items], in the order of the draws: each item's gain as it is foreseen, and how far above that
    it can be, 0 or more.
    """

    begin: int
    expected: Array
    ceilings: Array


@dataclass(frozen=True)
class Duel:
    """A candidate's gains over the incumbent, [drawn], in the order of the draws.

    ``known`` is the part of the difference that is not drawn but scored in full; stages: the first from draw 0 on.
    """

    draws: Draws
    gains: Array
    stages: Sequence[Stage]
    known: float = 0.0

    @property
    def broken(self) -> bool:
        """Whether an item added more than its ceiling, so that the test says nothing."""
        return any(
            (self.gains[span] > stage.expected[span] + stage.ceilings[span] + NOTHING_LEFT).any()
            for stage, span in self._spans
        )

    @cached_property
    def _spans(self) -> list[tuple[Stage, slice]]:
        """Each stage with its draws."""
        ends = [*(stage.begin for stage in self.stages[1:]), len(self.gains)]
        return [(stage, slice(stage.begin, end)) for stage, end in zip(self.stages, ends, strict=True)]

    @property
    def estimates(self) -> Array:
        """[drawn]: Z of each draw."""
        surprises = [self.gains[span] - stage.expected[span] for stage, span in self._spans]
        foreseen = [_to_come(stage.expected, np.add)[span] for stage, span in self._spans]
        chances = self.draws.chances[: len(self.gains)]
        return np.asarray(self._before[:-1] + np.concatenate(foreseen) + np.concatenate(surprises) / chances)

    @property
    def highest(self) -> Array:
        """[drawn + 1]: the most that Z could be at each draw and the next (if there is one), given those before."""
        spans = [*self._spans, (self.stages[-1], slice(len(self.gains), len(self.gains) + 1))]
        parts = [(_to_come(stage.expected, np.add) + self._largest(stage))[span] for stage, span in spans]
        found = np.concatenate(parts)
        return np.asarray(self._before[: len(found)] + found)

    def _largest(self, stage: Stage) -> Array:
        """[items]: the largest surprise over its chance that each draw could give."""
        rates = self.draws.ordered_rates
        return _to_come(stage.ceilings / rates, np.maximum) * _to_come(rates, np.add)

    @cached_property
    def _before(self) -> Array:
        """[drawn + 1]: what is known before each draw, and after all."""
        return self.known + np.concatenate([[0.0], np.cumsum(self.gains)])

    @property
    def log_evidence(self) -> float:
        """The logarithm of the largest evidence so far that the candidate is no better than the incumbent.

        A candidate with a difference above 0 reaches log(1/α) with probability at most α over the draws, whenever and
        however often this is asked; infinity where nothing that is left could make it better, which is certain.
        """
        highest = self.highest
        if (highest <= NOTHING_LEFT).any():
            return np.inf
        growth = np.log1p(-BETS * np.minimum(self.estimates / highest[: len(self.gains)], 1.0))
        capital = np.logaddexp.reduce(np.cumsum(growth, axis=1) + np.log(STAKES)[:, None], axis=0)
        return float(capital.max(initial=0.0))


def estimate(seen: Ints, inclusion: Array, scores: Array, predicted: Array, weights: Array) -> float:
    """The mean over all items, by weight, of scores known for the ones seen alone.

    scores, inclusion: [seen], the items' scores and their chances to be seen; predicted, weights: [items]. What is
    predicted for all items with the scores that are known, half corrected by what ``BELIEVED`` items show, and wholly
    by many (Särndal, Swensson & Wretman, Model assisted survey sampling, 1992, section 6.4; their ratio of weighted
    sums). Without that caution the estimates of early stopped candidates are too low, for they were stopped where they
    looked worst.
    """
    guess = predicted.copy()
    guess[seen] = scores
    plain = (weights * guess).sum() / weights.sum()
    if not len(seen):
        return float(plain)
    shares = weights[seen] / inclusion
    rest = (shares * (scores - predicted[seen])).sum() / shares.sum()
    corrected = (weights * predicted).sum() / weights.sum() + rest
    belief = len(seen) / (len(seen) + BELIEVED * (1 - len(seen) / len(weights)))
    return float(plain + belief * (corrected - plain))


def _to_come(values: Array, operation: np.ufunc) -> Array:
    """[items]: the operation over each value and those behind it."""
    return np.asarray(operation.accumulate(values[::-1])[::-1], dtype=np.float64)
