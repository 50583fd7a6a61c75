"""Weighted draws without replacement: the order, a test that may be looked at after every draw, and an estimate.

The population is finite: the items of the search split. Items are drawn one after the other, each with a chance that
is proportional to its *rate* among those that are left. With d_i what item i adds to the difference between a candidate
and the incumbent, D = Σ d_i, and q_i the chance with which item i was drawn,

    Z = Σ_{drawn before} d_j + d_i / q_i

has the expectation D given the past (Shekhar, Xu, Lipton, Liang & Ramdas, Risk-limiting financial audits via weighted
sampling without replacement, arXiv:2305.06884, section 2). So with any bet 0 ≤ λ < 1 / max Z that is settled before the
draw, Π (1 − λ Z) is a nonnegative supermartingale as long as D ≥ 0, and ever reaches 1/α with probability at most α
(Ville's inequality; Waudby-Smith & Ramdas, Estimating means of bounded random variables by betting, arXiv:2010.09686).
However often one looks, and whatever the d_i: no approximation, only an upper bound of each d_i.
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
SHRINKAGE = 8.0
"""How many drawn items the control variate's coefficient must be seen on to be believed by half."""


@dataclass(frozen=True)
class Draws:
    """One task's items in the order in which they are drawn, in ``rounds`` of about equally many.

    rates: [items], positive; keys: [items], exponential variables with these rates. Drawing by ascending key is drawing
    with chances proportional to the rates among the items left (Efraimidis & Spirakis 2006).
    """

    rates: Array
    keys: Array
    rounds: int

    @classmethod
    def of(cls, rates: Array, rounds: int, seed: int) -> "Draws":
        return cls(rates, np.random.default_rng(seed).exponential(size=len(rates)) / rates, rounds)

    @cached_property
    def order(self) -> Ints:
        """[items]: the items' numbers, the first drawn first."""
        return np.argsort(self.keys, kind="stable")

    @cached_property
    def chances(self) -> Array:
        """[items], in the order: the chance of each draw given those before it."""
        rates = self.rates[self.order]
        return rates / _to_come(rates, np.add)

    @cached_property
    def bounds(self) -> Ints:
        """[rounds + 1]: how many items are drawn before each round, and in all."""
        return np.arange(self.rounds + 1) * len(self.rates) // self.rounds

    def drawn(self, begin: int, end: int) -> Ints:
        """The items of the rounds from ``begin`` to before ``end``."""
        return self.order[self.bounds[begin] : self.bounds[end]]

    def inclusion(self, rounds: int) -> Array:
        """[drawn]: each drawn item's chance to be among the first that many rounds, given the next key.

        With these, Σ x_i / π_i is an unbiased estimate of the total (Cohen & Kaplan, Tighter estimation using bottom k
        sketches, VLDB 2008, section 4: rank conditioning).
        """
        count = self.bounds[rounds]
        if count == len(self.order):
            return np.ones(count)
        return np.asarray(-np.expm1(-self.rates[self.order[:count]] * self.keys[self.order[count]]))


@dataclass(frozen=True)
class Lane:
    """One task of a race, in the order of its draws.

    gains: [drawn], what the items drawn so far add to candidate − incumbent; ceilings: [items], the most that each can.
    """

    draws: Draws
    gains: Array
    ceilings: Array

    @property
    def broken(self) -> bool:
        """Whether an item added more than its ceiling, so that the test says nothing."""
        return bool((self.gains > self.ceilings[: len(self.gains)] + NOTHING_LEFT).any())

    def estimates(self, rounds: int) -> Array:
        """[rounds]: the mean of Z over each round's draws, the task's share in D."""
        bounds = self.draws.bounds[: rounds + 1]
        values = self._before()[:-1] + self.gains / self.draws.chances[: len(self.gains)]
        return np.asarray(np.add.reduceat(values, bounds[:-1]) / np.diff(bounds))

    def highest(self, rounds: int) -> Array:
        """[rounds + 1]: the most that ``estimates`` could be at each round and the next, given the rounds before.

        A later draw of a round adds to the first one's Z no more than what was drawn in between.
        """
        draws = self.draws
        starts = draws.bounds[:-1][: rounds + 1]
        rates = draws.rates[draws.order]
        most = _to_come(self.ceilings, np.maximum)
        largest = _to_come(self.ceilings / rates, np.maximum) * _to_come(rates, np.add)
        between = np.maximum(most[starts], 0) * (np.diff(draws.bounds)[: rounds + 1] - 1)
        return np.asarray(self._before()[starts] + largest[starts] + between)

    def _before(self) -> Array:
        """[drawn + 1]: the sum of the gains drawn before each draw, and of all."""
        return np.concatenate([[0.0], np.cumsum(self.gains)])


def log_evidence(lanes: Sequence[Lane], rounds: int, known: float = 0.0) -> float:
    """The logarithm of the largest evidence so far that the candidate is no better than the incumbent.

    ``known`` is the part of the difference that is not drawn but scored in full. A candidate with a difference above 0
    reaches log(1/α) with probability at most α over the draws, whenever and however often this is asked; infinity
    where nothing that is left could make it better, which is certain.
    """
    estimates = known + np.sum([lane.estimates(rounds) for lane in lanes], axis=0)
    highest = known + np.sum([lane.highest(rounds) for lane in lanes], axis=0)
    if (highest <= NOTHING_LEFT).any():
        return np.inf
    growth = np.log1p(-BETS * np.minimum(estimates / highest[:rounds], 1.0))
    capital = np.logaddexp.reduce(np.cumsum(growth, axis=1) + np.log(STAKES)[:, None], axis=0)
    return float(capital.max())


def estimate(draws: Draws, rounds: int, scores: Array, predictions: Array, weights: Array) -> float:
    """The mean over all items, by weight, of scores known for the drawn ones alone.

    scores: [drawn], in the order of the draws; predictions: [2, items], by item: another candidate's scores and what
    is typical; weights: [items]. The control variate is the first plus β times what the second differs from it, with
    β from weighted least squares, shrunk: predicted for all items, corrected by what the drawn ones show (Särndal,
    Swensson & Wretman, Model assisted survey sampling, 1992, section 6.4; their ratio of weighted sums).
    """
    drawn = draws.order[: draws.bounds[rounds]]
    shares = weights[drawn] / draws.inclusion(rounds)
    near, apart = predictions[0], predictions[1] - predictions[0]
    square = (shares * apart[drawn] ** 2).sum()
    fitted = (shares * apart[drawn] * (scores - near[drawn])).sum() / square if square else 0.0
    predicted = near + fitted * len(drawn) / (len(drawn) + SHRINKAGE) * apart
    rest = (shares * (scores - predicted[drawn])).sum() / shares.sum()
    return float((weights * predicted).sum() / weights.sum() + rest)


def _to_come(values: Array, operation: np.ufunc) -> Array:
    """[items]: the operation over each value and those behind it."""
    return np.asarray(operation.accumulate(values[::-1])[::-1], dtype=np.float64)
