"""Reinforced Agent Merging: average what several models changed, keep whole what one alone did.

Yuan et al., "Behavior knowledge merge in reinforced agentic models", arXiv:2601.13572. With c the number of models
whose |δ_i| is above ε: ``θ = θ_b + Σ_{i: |δ_i| > ε} δ_i / max(1, c)``, element by element.
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from mergesearch.merge_ops.kernels.plans import Elementwise
from mergesearch.merge_ops.methods._base import Method, Parameter, Statistics, Values

if TYPE_CHECKING:
    from torch import Tensor

EPSILON = Parameter("epsilon", "changes up to this size are none", default=1e-5, low=0.0, search=(0.0, 1e-3))


def decide(statistics: Statistics, values: Values) -> Elementwise:
    return Elementwise(partial(merged, values.number("epsilon"), [1.0] * statistics.count))


def merged(epsilon: float, alone: Sequence[float], base: "Tensor", models: "Sequence[Tensor]", _: int) -> "Tensor":
    """``alone`` holds each model's factor on what it alone changed."""
    total, own, count = (base.new_zeros(base.shape) for _ in range(3))
    for factor, model in zip(alone, models, strict=True):
        delta = model - base
        changed = delta.abs() > epsilon
        kept = delta * changed
        count += changed
        total += kept
        own.add_(kept, alpha=factor)
    return own.where(count == 1, total / count.clamp(min=1)).add_(base)


METHOD = Method(
    name="ram",
    summary="changes of one model alone kept whole, shared ones averaged",
    paper="Yuan et al., Behavior knowledge merge in reinforced agentic models, https://arxiv.org/abs/2601.13572",
    formula="θ = θ_b + Σ_{i: |δ_i| > ε} δ_i / |{j : |δ_j| > ε}|",
    base="required",
    parameters=(EPSILON,),
    decide=decide,
)
