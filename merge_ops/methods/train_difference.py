"""Train difference: adds to A what B learned from C, as far as A has not learned it already.

hako-mikan, sd-webui-supermerger, "trainDifference", github.com/hako-mikan/sd-webui-supermerger. A and B are the
recipe's first and second model, C is its base_model. Element by element, with supermerger's factor 1.8:

``θ = θ_A + 1.8 α (θ_B − θ_C) |θ_B − θ_A| / (|θ_B − θ_A| + |θ_B − θ_C|)``

Where A and B are equal, nothing is added.
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from mergesearch.merge_ops.kernels.plans import Elementwise, Form
from mergesearch.merge_ops.methods._base import Method, Parameter, ParameterValues, Statistics
from mergesearch.merge_ops.methods._parameters import ends

if TYPE_CHECKING:
    from torch import Tensor

STRENGTH = 1.8


def decide(_: Statistics, values: ParameterValues) -> Elementwise:
    strength = STRENGTH * values.number("alpha")
    return Elementwise(partial(_add, strength), Form("difference", (strength,)))


def _add(strength: float, base: "Tensor", models: "Sequence[Tensor]", _: int) -> "Tensor":
    a, b = models
    learned, missing = b - base, (b - a).abs()
    distance = missing + learned.abs()
    share = missing / distance.masked_fill(distance == 0, 1)
    return share.mul_(learned).mul_(strength).add_(a)


METHOD = Method(
    name="train_difference",
    summary="the first model plus what the second learned from base_model and the first lacks",
    paper="hako-mikan, sd-webui-supermerger (trainDifference), https://github.com/hako-mikan/sd-webui-supermerger",
    formula="θ = θ_A + 1.8 α (θ_B − θ_C) |θ_B − θ_A| / (|θ_B − θ_A| + |θ_B − θ_C|), "
    "θ_A = the first model, θ_B = the second, θ_C = base_model",
    base="required",
    parameters=(Parameter("alpha", "how much of the difference is added", default=1.0, search=(0.0, 1.5)),),
    decide=decide,
    copied=ends("alpha", 0),
    min_models=2,
    max_models=2,
    symmetric=False,
)
