"""Plans: what a method decides for one tensor, as coefficients, thresholds and probabilities, never as tensor data.

The kernels of ``combine`` know the plan types of this module and no others. In all formulas b is the base, x_i are the
models and δ_i = x_i − b the task vectors.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST_NORM = 1e-7
"""Smaller norms count as zero, as in mergekit: nothing is divided by them."""
SMALLEST_SUM = 1e-8
"""Smaller sums of weights count as zero."""
GRAIN = 1 << 16
"""Probabilities are rounded to multiples of 1/GRAIN."""
RANKS = 1 << 16
"""The largest number of places of a ``RankedDrop``."""
PADDING = 64
"""Elements that must follow the last place of a ``RankedDrop`` in memory, because kernels read it in whole steps."""


def rounded(probability: float) -> float:
    """Returns the probability that the masks use: a multiple of 1/GRAIN, and above 0 if ``probability`` is."""
    return grains(probability) / GRAIN


def grains(probability: float) -> int:
    """Returns ``rounded(probability) * GRAIN`` as an integer."""
    return max(round(probability * GRAIN), 1 if probability > 0 else 0)


@dataclass(frozen=True)
class LinearCombination:
    """``out = base·b + Σ_i c_i·x_i``, or ``out = base·b + Σ_i c_i·δ_i`` with ``task_vectors``.

    Both forms can express the same models. The second keeps the precision of small task vectors.
    """

    coefficients: tuple[float, ...]
    base: float = 0.0
    task_vectors: bool = False


Vote = Literal["mass", "count", "change"]


@dataclass(frozen=True)
class RankedDrop:
    """A random drop whose probability depends on the element's place in a table.

    An element is kept if ``draws(key) < kept[place]``, and then multiplied by ``factors[place]``.

    Attributes:
        places: uint16 bit patterns in a flat int16 tensor, at least PADDING elements longer than the task vector.
        kept: int32, the probability of each place in grains minus GRAIN / 2, which is the range of ``draws``.
        factors: float32, the factor of each place.
    """

    places: "Tensor"
    kept: "Tensor"
    factors: "Tensor"


@dataclass(frozen=True)
class Sparsity:
    """What remains of one task vector: ``δ' = scale · δ · [threshold ≤ |δ| ≤ ceiling] · [random(key) < keep]``.

    With ``ranked``, the probability and a factor depend on the element, and ``keep`` is not used. ``match_l1`` replaces
    ``scale`` by ``Σ|δ| / Σ|δ'|``, which costs one more pass over the tensor.
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
    """``out = b + λ · Σ_i m_i·w_i·δ'_i / d``, element by element.

    Without ``elect``, all m_i and d are 1. With ``elect``, m_i is 1 where ``w_i·δ'_i`` has the elected sign, else 0.
    With ``normalize`` as well, d is ``Σ_i m_i·w_i``, or 1 where this sum is 0.

    ``vote`` says which sum elects the sign; a sum of 0 elects +:

    * ``mass``: ``Σ_i w_i·δ'_i``
    * ``count``: ``Σ_i sign(w_i·δ'_i)``
    * ``change``: ``Σ_i δ'_i``

    All m_i are 0 where ``Σ_i (δ_i − mean δ)²`` is less than ``least_spread``.
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
        """The largest sum that float32 rounding may leave of weights that sum to zero, such as 0.1 + 0.6 − 0.7.

        A divisor up to this size counts as zero.
        """
        return 1e-6 * sum(map(abs, self.weights)) if min(self.weights, default=0) < 0 else 0.0


FormName = Literal["tables", "vectors", "largest", "shared", "consensus", "near", "difference", "fisher", "important"]


@dataclass(frozen=True)
class Form:
    """What the compiled kernels know the function of an ``Elementwise`` plan by. They give its bits.

    Attributes:
        name: the function's name there.
        numbers: the numbers that all models share, at most two.
        weights: one number for each model, or for each table where the function reads no model.
        scales: another one for each of these.
        tables: flat float32 tensors of the tensor's size, which are read beside the models.
        factors: for each model float32 numbers, one for each vector along an axis; then those of the base, if any.
        vectors: how many elements lie between neighbors along this axis, and how many neighbors there are.
        task_vectors: whether the factors are those of task vectors.
    """

    name: FormName
    numbers: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()
    scales: tuple[float, ...] = ()
    tables: "tuple[Tensor, ...]" = ()
    factors: "tuple[Tensor, ...]" = ()
    vectors: tuple[int, int] = (1, 1)
    task_vectors: bool = False


@dataclass(frozen=True)
class Elementwise:
    """``out = function(b, [x_1, ...], start)``, block by block, for methods that no other plan type can express.

    The function gets flat float32 blocks (float64 if an input is float64) that begin at element ``start``. b is None if
    the method takes no base. The function returns a new block and must not change its arguments. With a ``form`` the
    compiled kernels compute it, where they can.
    """

    function: "Callable[[Tensor | None, Sequence[Tensor], int], Tensor]"
    form: Form | None = field(default=None, compare=False)


Plan = LinearCombination | SignConsensus | Elementwise


@dataclass(frozen=True)
class Pass:
    """One pass over memory: the plan of one tensor, its inputs, and ``out``, to which the result is written."""

    plan: Plan
    base: "Tensor | None"
    models: "Sequence[Tensor]"
    out: "Tensor"

    @property
    def inputs(self) -> "list[Tensor]":
        """The models, then the base if there is one."""
        return [*self.models] if self.base is None else [*self.models, self.base]
