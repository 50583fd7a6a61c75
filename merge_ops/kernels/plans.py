"""What a method decides for one tensor: coefficients, thresholds and probabilities, never data.

The forms here are all that the kernels of ``combine`` know. With base b, models x_i and task vectors δ_i = x_i − b:
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Literal

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


Vote = Literal["mass", "count", "change"]
RANKS = 1 << 16
"""So many places ``RankedDrop`` may have."""
PADDING = 64
"""Elements that must follow in memory on the last of what the kernels read in steps."""


@dataclass(frozen=True)
class RankedDrop:
    """A random drop by each element's place: kept where ``draws(key) < kept[place]``, then times ``factors[place]``.

    ``places`` are uint16 bit patterns in an int16 tensor, flat, at least PADDING longer than the task vector; ``kept``
    (int32) are grains less GRAIN/2, as ``draws`` are; ``factors`` are float32.
    """

    places: "Tensor"
    kept: "Tensor"
    factors: "Tensor"


@dataclass(frozen=True)
class Sparsity:
    """What remains of one task vector: ``δ' = scale · δ · [threshold ≤ |δ| ≤ ceiling] · [random(key) < keep]``.

    With ``ranked``, ``keep`` depends on the element. ``match_l1`` replaces ``scale`` by ``Σ|δ| / Σ|δ'|``, which takes
    a pass of its own over the tensor where elements are dropped at random.
    """

    threshold: float = 0.0
    ceiling: float = inf
    keep: float = 1.0
    key: int = 0
    scale: float = 1.0
    match_l1: bool = False
    ranked: RankedDrop | None = field(default=None, compare=False)


@dataclass(frozen=True)
class SignConsensus:
    """``out = b + λ · Σ_i m_i·w_i·δ'_i / d``.

    With ``elect``, m_i is 1 where ``w_i·δ'_i`` has the sign of ``Σ_i w_i·δ'_i`` (0 counts as +), else 0, and with
    ``normalize`` d is ``Σ_i m_i·w_i`` (1 where that is 0). Without, both are 1. Other ``vote``s than ``mass`` elect the
    sign of ``Σ_i sign(w_i·δ'_i)`` (``count``) or of ``Σ_i δ'_i`` (``change``). Where the task vectors'
    ``Σ_i (δ_i − mean δ)²`` is less than ``least_spread``, all m_i are 0.
    """

    weights: tuple[float, ...]
    sparsity: tuple[Sparsity, ...]
    elect: bool = False
    normalize: bool = False
    lambda_: float = 1.0
    vote: Vote = "mass"
    least_spread: float = 0.0

    @property
    def rounding(self) -> float:
        """What float32 may leave of weights that sum to zero, such as 0.1 + 0.6 − 0.7: not divided by."""
        return 1e-6 * sum(map(abs, self.weights)) if min(self.weights, default=0) < 0 else 0.0


@dataclass(frozen=True)
class Elementwise:
    """``out = function(b, [x_1, ...], start)``, block by block: for methods that no other form serves.

    The function is given flat float32 blocks (float64 where an input is) that begin at element ``start``, None for b
    where the method takes no base, and returns a new block. It must not change what it is given.
    """

    function: "Callable[[Tensor | None, Sequence[Tensor], int], Tensor]"


Plan = LinearCombination | SignConsensus | Elementwise


@dataclass(frozen=True)
class Pass:
    """One pass over one tensor's inputs: a plan and a place to write to for every candidate that is made of them."""

    plans: "Sequence[Plan]"
    base: "Tensor | None"
    models: "Sequence[Tensor]"
    outs: "Sequence[Tensor]"

    @property
    def inputs(self) -> "list[Tensor]":
        return [*self.models] if self.base is None else [*self.models, self.base]
