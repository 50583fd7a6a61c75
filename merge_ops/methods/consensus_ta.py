"""Consensus task arithmetic: only the elements that matter to several tasks (TALL masks).

Wang et al., "Localizing task information for improved model merging and compression", arXiv:2405.07813. With
τ = Σ w_i δ_i (the paper's weights are 1), an element matters to task i if the task's own change stands out:

``m_i = [|δ_i| ≥ c_i |τ − δ_i|],  θ = θ_b + λ [Σ_i m_i ≥ k] ∘ τ``

k = 2 drops elements that matter to one task or to none. With fewer than k models, all models must agree. The paper's
code keeps nothing then.
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from mergesearch.merge_ops.kernels.plans import Elementwise, Form
from mergesearch.merge_ops.methods._base import Method, Parameter, ParameterValues, Statistics
from mergesearch.merge_ops.methods._parameters import LAMBDA, WEIGHT, base_without

if TYPE_CHECKING:
    from torch import Tensor


def decide(statistics: Statistics, values: ParameterValues) -> Elementwise:
    required = min(int(values.number("consensus")), statistics.count)
    numbers, weights = (float(required), values.number("lambda")), values.numbers("weight")
    form = Form("consensus", numbers, weights, values.numbers("mask_scale"))
    return Elementwise(partial(_masked_sum, values, required), form)


def _masked_sum(values: ParameterValues, required: int, base: "Tensor", models: "Sequence[Tensor]", _: int) -> "Tensor":
    deltas = [model - base for model in models]
    total = base.new_zeros(base.shape)
    for weight, delta in zip(values.numbers("weight"), deltas, strict=True):
        # Not one add with alpha, which rounds once or twice depending on the processor.
        total.add_(delta * weight)
    votes = base.new_zeros(base.shape)
    for scale, delta in zip(values.numbers("mask_scale"), deltas, strict=True):
        votes.add_(delta.abs() >= scale * (total - delta).abs())
    return total.mul_(votes >= required).mul_(values.number("lambda")).add_(base)


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
            "c_i: how far the model's own change must stand out",
            default=0.4,
            per_model=True,
            low=0.0,
            search=(0.2, 0.6),
        ),
        Parameter(
            "consensus", "k: how many tasks an element must matter to", kind="integer", default=2, low=0, high=1000
        ),
    ),
    decide=decide,
    copied=base_without("weight", "lambda"),
)
