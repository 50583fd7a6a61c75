"""The order in which items are drawn: at random, those that tell more earlier."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mergesearch.search.statistics import Array

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Draws:
    """Weighted draws without replacement.

    keys: [items], exponential variables whose rates are the items'. Drawing by ascending key is drawing each item with
    a probability proportional to its rate among the remaining items (Efraimidis & Spirakis 2006).
    """

    keys: Array

    @classmethod
    def of(cls, rates: Array, seed: int) -> "Draws":
        """Draws by rates, [items], positive."""
        return cls(np.random.default_rng(seed).exponential(size=len(rates)) / rates)

    @cached_property
    def order(self) -> Ints:
        """[items]: the items' numbers, the first drawn first."""
        return np.argsort(self.keys, kind="stable")
