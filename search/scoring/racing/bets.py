"""A bet that a candidate is worse than the incumbent, at fair odds if it is not.

Items are drawn at random, one after the other, an item with a probability proportional to its rate among those that
are left. What an item adds above what was foretold of it, divided by that probability, is on average what all items
that are left add. A candidate that is as good as the incumbent needs a known sum of them. Whoever bets before every
draw that it will be less wins nothing on average against such a candidate. So the probability that the capital ever
grows by a factor of 1 / error is at most ``error`` (Ville's inequality), over all looks together, whatever was
foretold.

Shekhar, Xu, Lipton, Liang & Ramdas 2023, "Risk-limiting financial audits via weighted sampling without replacement",
arXiv:2305.06884.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from mergesearch.search.signal.foresight import Ints
from mergesearch.search.statistics import Array

BOLDNESS = np.array([0.25, 0.5])
"""Stakes, in units of 1 / the standard deviation of a draw. The capital is divided between them."""
SAFE = 0.9
"""The most of the capital that a draw may cost."""
LOST = 1e-300
"""Of the capital, what is left where an item adds more than there was room for: nothing wins it back."""
NOTHING = 1e-12


def drawn(rates: Array, seed: int) -> Ints:
    """[items]: the items' numbers in the order of draws. rates: [items], positive (Efraimidis & Spirakis 2006)."""
    return np.argsort(np.random.default_rng(seed).exponential(size=len(rates)) / rates, kind="stable")


@dataclass(frozen=True)
class Block:
    """Items that are drawn together, and what was foretold before.

    drawn: the items in the order of draws; left: [items], whether they were not drawn before; contributions: [items],
    of which only those of drawn items are read, those of the block among them; expected: [items]; room: [items], by how
    much at most an item adds more than expected; spread: [items], the standard deviation of what an item adds.
    """

    drawn: Ints
    left: Array
    contributions: Array
    expected: Array
    room: Array
    spread: Array


@dataclass
class Bet:
    """That a weighted sum of what items contribute is less than ``needed``.

    weights, rates: [items]; capitals: the logarithms for each boldness; highest: that of the most that all together
    ever were.
    """

    weights: Array
    needed: float
    rates: Array
    capitals: Array = field(default_factory=lambda: np.zeros(len(BOLDNESS)))
    highest: float = 0.0

    def is_won(self, error: float) -> bool:
        """Whether the sum is less, at this error; never with 0."""
        return error > 0 and self.highest >= -math.log(error)

    def settle(self, block: Block) -> None:
        """After a block was scored."""
        rates, drawn, left = self.rates, block.drawn, block.left
        remaining = (rates * left).sum() - _before(rates[drawn])
        surprises = self.weights[drawn] * (block.contributions - block.expected)[drawn]
        known = np.where(left, block.expected, block.contributions)
        needed = self.needed - self.weights @ known - _before(surprises)
        most = remaining * (block.room / rates * left).max()
        spread = np.sqrt(remaining * (block.spread**2 / rates * left).sum()) + NOTHING
        stakes = np.minimum(BOLDNESS[:, None] / spread, SAFE / np.maximum(most - needed, NOTHING))
        growth = 1 + stakes * (needed - surprises * remaining / rates[drawn])
        course = self.capitals[:, None] + np.log(np.maximum(growth, LOST)).cumsum(1)
        self.highest = max(self.highest, float((np.logaddexp.reduce(course, 0) - np.log(len(course))).max()))
        self.capitals = course[:, -1]


def _before(values: Array) -> Array:
    """Sums of the values before each one."""
    return np.asarray(np.cumsum(values) - values)
