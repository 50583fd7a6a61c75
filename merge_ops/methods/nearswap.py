"""NearSwap: the other model's values where they are near the base's, and the base's values elsewhere.

alchemonaut, QuartetAnemoi-70B-t0.0001, huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001, element by element:

``θ = (1 − s) θ_b + s θ_1,  s = min(1, t / |θ_1 − θ_b|)``
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from mergesearch.merge_ops.kernels.plans import Elementwise, Form
from mergesearch.merge_ops.methods._base import BASE, Method, Parameter, ParameterValues, Statistics
from mergesearch.merge_ops.methods._parameters import ends

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST_DIFFERENCE = 1e-6


def decide(_: Statistics, values: ParameterValues) -> Elementwise:
    t = values.number("t")
    return Elementwise(partial(_swap, t), Form("near", (t, SMALLEST_DIFFERENCE)))


def _swap(t: float, base: "Tensor", models: "Sequence[Tensor]", _: int) -> "Tensor":
    delta = models[0] - base
    share = (t / delta.abs().clamp(min=SMALLEST_DIFFERENCE)).clamp(max=1)
    return share.mul_(delta).add_(base)


METHOD = Method(
    name="nearswap",
    summary="the base, with the other model's values where the two are near",
    paper="alchemonaut, QuartetAnemoi-70B-t0.0001, https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001",
    formula="θ = (1 − s) θ_b + s θ_1, s = min(1, t / |θ_1 − θ_b|)",
    base="required",
    parameters=(
        Parameter("t", "the difference up to which the other model's value is taken", low=0.0, search=(0.0, 0.01)),
    ),
    decide=decide,
    copied=ends("t", BASE),
    max_models=1,
)
