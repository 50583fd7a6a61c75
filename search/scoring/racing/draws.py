"""The order in which items are drawn: at random, those that tell more earlier."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mergesearch.search.statistics import Array

Ints = NDArray[np.int64]
MOST = 50.0
"""The exponent at which the odds of not being drawn are as good as none."""


@dataclass(frozen=True)
class Draws:
    """Weighted draws without replacement.

    rates: [items], positive; keys: [items], exponential variables whose rates are the items'. Drawing by ascending key
    is drawing each item with a probability proportional to its rate among the remaining items (Efraimidis & Spirakis
    2006).
    """

    rates: Array
    keys: Array

    @classmethod
    def of(cls, rates: Array, seed: int) -> "Draws":
        """Draws by rates, [items], positive."""
        return cls(rates, np.random.default_rng(seed).exponential(size=len(rates)) / rates)

    def odds(self, count: int) -> Array:
        """[items]: each item's odds of not being among the first ``count``, fewer than all, given the next one's key.

        Given that key, the keys of the drawn items are independent.
        """
        return np.asarray(1 / np.expm1(np.minimum(MOST, self.rates * self.keys[self.order[count]])))

    @cached_property
    def order(self) -> Ints:
        """[items]: the items' numbers, the first drawn first."""
        return np.argsort(self.keys, kind="stable")
