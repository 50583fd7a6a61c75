"""Fisher-weighted averaging: each element by how much each model's likelihood depends on it.

Matena and Raffel, "Merging models with Fisher-weighted averaging", arXiv:2111.09832:

``θ = Σ w_i F_i θ_i / Σ w_i F_i``

with F_i the diagonal of model i's empirical Fisher information: the squared gradient of the log-likelihood of the
``calibration`` text, averaged over its sequences, at least ``floor``. Every model runs over the text once, in float32;
its F_i is kept (a model's size for each). Where a tensor has no gradient, or the weights cancel, the plain weighted
average is taken.
"""

from dataclasses import replace
from functools import partial
from math import prod
from typing import TYPE_CHECKING

from mergesearch.merge_ops.kernels.plans import SMALLEST_SUM, Elementwise, LinearCombination, Plan
from mergesearch.merge_ops.methods._base import Method, Parameter, Statistics, Values
from mergesearch.merge_ops.methods._shared import CALIBRATION, CALIBRATION_TOKENS, WEIGHT, divided

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def decide(statistics: Statistics, values: Values) -> Plan:
    text, tokens = values.text("calibration"), int(values.number("calibration_tokens"))
    found = [statistics.calibrated("fisher", model, text, tokens) for model in range(statistics.count)]
    weights, known = values.numbers("weight"), [fisher.reshape(-1) for fisher in found if fisher is not None]
    if len(known) < len(found) or abs(sum(weights)) <= SMALLEST_SUM:
        return LinearCombination(divided(weights, True))
    return Elementwise(partial(_average, values, known))


def _average(
    values: Values, fishers: "Sequence[Tensor]", _: "Tensor | None", models: "Sequence[Tensor]", start: int
) -> "Tensor":
    # As a step from the first model, so that equal ones give themselves exactly.
    total, divisor = (models[0].new_zeros(models[0].shape) for _ in range(2))
    for weight, fisher, model in zip(values.numbers("weight"), fishers, models, strict=True):
        floored = fisher[start : start + model.numel()].to(model).clamp(min=values.number("floor"))
        share = floored * weight
        total.addcmul_(share, model - models[0])
        divisor.add_(share)
    return models[0] + total / divisor


def kept(shape: tuple[int, ...], models: int) -> int:
    """Every model's Fisher information, in float32."""
    return 4 * models * prod(shape)


METHOD = Method(
    name="fisher",
    summary="average of models, each element weighted by its Fisher information on a text",
    paper="Matena and Raffel, Merging models with Fisher-weighted averaging, https://arxiv.org/abs/2111.09832",
    formula="θ = Σ w_i F_i θ_i / Σ w_i F_i",
    base="input",
    parameters=(
        replace(WEIGHT, default=1.0, low=0.0, search=(0.0, 1.0)),
        CALIBRATION,
        CALIBRATION_TOKENS,
        Parameter(
            "floor", "the least Fisher information of an element", default=1e-12, low=1e-30, search=(1e-12, 1e-8)
        ),
    ),
    decide=decide,
    kept=kept,
    fewest=2,
)
