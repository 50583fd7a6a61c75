"""Reinforced Agent Merging: averages changes that several models share, keeps changes of a single model whole.

Yuan et al., "Behavior knowledge merge in reinforced agentic models", arXiv:2601.13572. With c the number of models
whose |δ_i| is above ε: ``θ = θ_b + Σ_{i: |δ_i| > ε} δ_i / max(1, c)``, element by element.
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from mergesearch.merge_ops.kernels.plans import Elementwise, Form
from mergesearch.merge_ops.methods._base import Method, Parameter, ParameterValues, Statistics

if TYPE_CHECKING:
    from torch import Tensor

EPSILON = Parameter("epsilon", "changes up to this size count as none", default=1e-5, low=0.0, search=(0.0, 1e-3))


def decide(statistics: Statistics, values: ParameterValues) -> Elementwise:
    return plan_of(values.number("epsilon"), [1.0] * statistics.count)


def plan_of(epsilon: float, factors: Sequence[float]) -> Elementwise:
    """Returns the plan. ``factors`` holds each model's factor on changes that no other model shares."""
    return Elementwise(partial(_merged, epsilon, factors), Form("shared", (epsilon,), tuple(factors)))


def _merged(epsilon: float, factors: Sequence[float], base: "Tensor", models: "Sequence[Tensor]", _: int) -> "Tensor":
    total, single, count = (base.new_zeros(base.shape) for _ in range(3))
    for factor, model in zip(factors, models, strict=True):
        delta = model - base
        changed = delta.abs() > epsilon
        change = delta * changed
        count += changed
        total += change
        # Not one add with alpha, which rounds once or twice depending on the processor.
        single += change.mul_(factor)
    return single.where(count == 1, total / count.clamp(min=1)).add_(base)


METHOD = Method(
    name="ram",
    summary="changes of one model alone kept whole, shared ones averaged",
    paper="Yuan et al., Behavior knowledge merge in reinforced agentic models, https://arxiv.org/abs/2601.13572",
    formula="θ = θ_b + Σ_{i: |δ_i| > ε} δ_i / |{j : |δ_j| > ε}|",
    base="required",
    parameters=(EPSILON,),
    decide=decide,
)
