"""Consensus task arithmetic: only elements that matter to several tasks (TALL masks).

Wang et al., "Localizing task information for improved model merging and compression", arXiv:2405.07813. With
τ = Σ w_i δ_i (the paper's weights are 1), an element matters to task i where its own change stands out:

``m_i = [|δ_i| ≥ c_i |τ − δ_i|],  θ = θ_b + λ [Σ_i m_i ≥ k] ∘ τ``

k = 2 drops what is selfish or needed by none. Of fewer models than k, all must agree (the paper's code then keeps
nothing).
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from mergesearch.merge_ops.kernels.plans import Elementwise
from mergesearch.merge_ops.methods._base import Method, Parameter, Statistics, Values
from mergesearch.merge_ops.methods._shared import LAMBDA, WEIGHT

if TYPE_CHECKING:
    from torch import Tensor


def decide(statistics: Statistics, values: Values) -> Elementwise:
    agreeing = min(int(values.number("consensus")), statistics.count)
    return Elementwise(partial(_agreed, values, agreeing))


def _agreed(values: Values, agreeing: int, base: "Tensor", models: "Sequence[Tensor]", _: int) -> "Tensor":
    deltas = [model - base for model in models]
    total = base.new_zeros(base.shape)
    for weight, delta in zip(values.numbers("weight"), deltas, strict=True):
        total.add_(delta, alpha=weight)
    votes = base.new_zeros(base.shape)
    for scale, delta in zip(values.numbers("mask_scale"), deltas, strict=True):
        votes.add_(delta.abs() >= scale * (total - delta).abs())
    return total.mul_(votes >= agreeing).mul_(values.number("lambda")).add_(base)


METHOD = Method(
    name="consensus_ta",
    summary="task arithmetic on the elements that matter to several tasks",
    paper="Wang et al., Localizing task information (TALL masks, Consensus), https://arxiv.org/abs/2405.07813",
    formula="θ = θ_b + λ [Σ_i m_i ≥ k] ∘ τ, m_i = [|δ_i| ≥ c_i |τ − δ_i|], τ = Σ w_i δ_i",
    base="required",
    parameters=(
        WEIGHT,
        LAMBDA,
        Parameter(
            "mask_scale",
            "c_i: how far an own change must stand out",
            default=0.4,
            per_model=True,
            low=0.0,
            search=(0.2, 0.6),
        ),
        Parameter("consensus", "k: how many tasks must need an element", kind="integer", default=2, low=0, high=1000),
    ),
    decide=decide,
)
