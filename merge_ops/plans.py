"""What a method decides for one tensor: coefficients, thresholds and probabilities, never data.

The forms here are all that the kernels of ``combine`` know. With base b, models x_i and task vectors δ_i = x_i − b:
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST_NORM = 1e-7
"""Norms below are taken for zero, as in mergekit: nothing is divided by them."""
SMALLEST_SUM = 1e-8
"""Sums of weights below are taken for zero."""
GRAIN = 1 << 16
"""Probabilities are rounded to multiples of 1/GRAIN."""


def rounded(probability: float) -> float:
    """The probability with which an element is really kept; above 0 wherever the wish is."""
    return grains(probability) / GRAIN


def grains(probability: float) -> int:
    """The same as a whole number of grains."""
    return max(round(probability * GRAIN), 1 if probability > 0 else 0)


@dataclass(frozen=True)
class LinearCombination:
    """``out = base·b + Σ_i c_i·x_i``, or ``base·b + Σ_i c_i·δ_i`` where ``task_vectors`` is set.

    The second form is the first in other numbers, but keeps the precision of small task vectors.
    """

    coefficients: tuple[float, ...]
    base: float = 0.0
    task_vectors: bool = False


@dataclass(frozen=True)
class Sparsity:
    """What remains of one task vector: ``δ' = scale · δ · [threshold ≤ |δ| ≤ ceiling] · [random(key) < keep]``.

    ``match_l1`` replaces ``scale`` by ``Σ|δ| / Σ|δ'|``, which takes a pass of its own over the tensor where elements
    are dropped at random.
    """

    threshold: float = 0.0
    ceiling: float = inf
    keep: float = 1.0
    key: int = 0
    scale: float = 1.0
    match_l1: bool = False


@dataclass(frozen=True)
class SignConsensus:
    """``out = b + λ · Σ_i m_i·w_i·δ'_i / d``.

    With ``elect``, m_i is 1 where ``w_i·δ'_i`` has the sign of ``Σ_i w_i·δ'_i`` (0 counts as +), else 0, and with
    ``normalize`` d is ``Σ_i m_i·w_i`` (1 where that is 0). Without, both are 1.
    """

    weights: tuple[float, ...]
    sparsity: tuple[Sparsity, ...]
    elect: bool = False
    normalize: bool = False
    lambda_: float = 1.0

    @property
    def rounding(self) -> float:
        """What float32 may leave of weights that sum to zero, such as 0.1 + 0.6 − 0.7: not divided by."""
        return 1e-6 * sum(abs(weight) for weight in self.weights)


@dataclass(frozen=True)
class Elementwise:
    """``out = function(b, [x_1, ...], start)``, block by block: for methods that no other form serves.

    The function is given flat float32 blocks (float64 where an input is) that begin at element ``start``, None for b
    where the method takes no base, and returns a new block. It must not change what it is given.
    """

    function: "Callable[[Tensor | None, Sequence[Tensor], int], Tensor]"


Plan = LinearCombination | SignConsensus | Elementwise
