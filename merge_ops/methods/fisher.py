"""Fisher-weighted averaging: each element is weighted by how much each model's likelihood depends on it.

Matena and Raffel, "Merging models with Fisher-weighted averaging", arXiv:2111.09832:

``θ = Σ w_i F_i θ_i / Σ w_i F_i``

F_i is the diagonal of model i's empirical Fisher information: the squared gradient of the log-likelihood of the
``calibration`` text, averaged over its sequences, and at least ``floor``. Every model runs on the text once, in
float32. Its F_i, which has the size of the model, is cached. Tensors without a gradient get the plain weighted average,
and so do all tensors if the weights cancel out.
"""

from dataclasses import replace
from functools import partial
from math import prod
from typing import TYPE_CHECKING

from mergesearch.merge_ops.kernels.plans import SMALLEST_SUM, Elementwise, Form, LinearCombination, Plan
from mergesearch.merge_ops.methods._base import Method, Parameter, ParameterValues, Statistics
from mergesearch.merge_ops.methods._parameters import CALIBRATION, CALIBRATION_TOKENS, WEIGHT, normalized

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def decide(statistics: Statistics, values: ParameterValues) -> Plan:
    text, tokens = values.text("calibration"), int(values.number("calibration_tokens"))
    each = [statistics.calibrated("fisher", model, text, tokens) for model in range(statistics.count)]
    weights, fishers = values.numbers("weight"), [fisher.reshape(-1) for fisher in each if fisher is not None]
    if len(fishers) < len(each) or abs(sum(weights)) <= SMALLEST_SUM:
        return LinearCombination(normalized(weights))
    form = Form("fisher", (values.number("floor"),), weights, tables=tuple(fishers))
    return Elementwise(partial(_average, values, fishers), form)


def _average(
    values: ParameterValues, fishers: "Sequence[Tensor]", _: "Tensor | None", models: "Sequence[Tensor]", start: int
) -> "Tensor":
    # As a step from the first model, so that equal models give exactly themselves.
    total, divisor = (models[0].new_zeros(models[0].shape) for _ in range(2))
    for weight, fisher, model in zip(values.numbers("weight"), fishers, models, strict=True):
        floored = fisher[start : start + model.numel()].to(model).clamp(min=values.number("floor"))
        share = floored * weight
        # Not addcmul, which rounds once or twice depending on the processor.
        total.add_((model - models[0]).mul_(share))
        divisor.add_(share)
    return models[0] + total / divisor


def statistics_bytes(shape: tuple[int, ...], models: int) -> int:
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
            "floor", "the smallest Fisher information of an element", default=1e-12, low=1e-30, search=(1e-12, 1e-8)
        ),
    ),
    decide=decide,
    statistics_bytes=statistics_bytes,
    min_models=2,
)
