"""MagMax: for each element, the largest change of all models.

Marczak et al., "MagMax: leveraging model merging for seamless continual learning", arXiv:2407.06322:
``θ = θ_b + λ δ_{i*}, i* = argmax_i |δ_i|``. Of two changes of equal size and opposite sign, the positive one is taken.
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from mergesearch.merge_ops.kernels.plans import Elementwise, Form
from mergesearch.merge_ops.methods._base import Method, ParameterValues, Statistics
from mergesearch.merge_ops.methods._parameters import LAMBDA, base_without

if TYPE_CHECKING:
    from torch import Tensor


def decide(_: Statistics, values: ParameterValues) -> Elementwise:
    factor = values.number("lambda")
    return Elementwise(partial(_largest, factor), Form("largest", (factor,)))


def _largest(factor: float, base: "Tensor", models: "Sequence[Tensor]", _: int) -> "Tensor":
    deltas = [model - base for model in models]
    highest, lowest = deltas[0], deltas[0]
    for delta in deltas[1:]:
        highest, lowest = highest.maximum(delta), lowest.minimum(delta)
    return highest.where(highest >= -lowest, lowest).mul(factor).add_(base)


METHOD = Method(
    name="magmax",
    summary="the base plus, element by element, the largest change of all models",
    paper="Marczak et al., MagMax, https://arxiv.org/abs/2407.06322",
    formula="θ = θ_b + λ δ_{i*}, i* = argmax_i |δ_i|",
    base="required",
    parameters=(LAMBDA,),
    decide=decide,
    copied=base_without("lambda"),
)
