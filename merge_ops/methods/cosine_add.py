"""Cosine-weighted addition: the more a column differs in direction, the more of the other model's column is taken.

hako-mikan, sd-webui-supermerger, "cosineA" and "cosineB", github.com/hako-mikan/sd-webui-supermerger. A is the
base_model, B the other model. For every column j (the vector along the first axis):

``θ_j = k_j θ_A,j + (1 − k_j) θ_B,j,  k_j = clip((s_j − low) / (high − low) − α, 0, 1),  s_j = (c_j + c) / 2``

c_j is cos(θ_A,j, θ_B,j), and c is the cosine of the whole tensors, in ``cosineA`` after their columns are scaled to
length one. low and high are the extremes over all of the model's columns, without the first and the last percentile: of
s in ``cosineB``, of c_j in ``cosineA``. According to supermerger, cosineA favors A's structure and cosineB favors B's.

A zero column has the cosine 0. If all columns are equally similar, k is 1 − α. A large negative α (−100) leaves a
tensor as in A: with a filter on ``first_stage_model`` this spares the VAE, as supermerger does. Tensors that only one
model has, or that differ in shape, do not count for the extremes.
"""

from functools import partial
from typing import TYPE_CHECKING

from mergesearch.merge_ops.kernels.plans import LinearCombination, Plan
from mergesearch.merge_ops.methods._base import Method, Parameter, ParameterValues, Statistics

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

SMALLEST_RANGE = 1e-12


def decide(statistics: Statistics, values: ParameterValues) -> Plan:
    import numpy as np

    from mergesearch.merge_ops.kernels.rowwise import combination
    from mergesearch.merge_ops.methods._similarity import similarity_range

    mode, alpha = values.text("mode"), values.number("alpha")
    if statistics.size == 0:
        return LinearCombination((alpha,), base=1 - alpha)
    low, high = statistics.model_derived(f"{mode} range", 0, partial(similarity_range, mode))
    similar = statistics.derived(f"{mode} similarities", partial(_similarities, mode))
    scaled = (similar - low) / (high - low) if high - low > SMALLEST_RANGE else np.ones_like(similar)
    base_share = np.clip(scaled - alpha, 0, 1)
    return combination([1 - base_share], statistics.shape, 0, base=base_share)


def _similarities(mode: str, base: "Tensor | None", models: "Sequence[Tensor]") -> "NDArray[np.float64]":
    from mergesearch.merge_ops.methods._similarity import column_similarities

    assert base is not None
    return column_similarities(mode, base, models[0])


METHOD = Method(
    name="cosine_add",
    summary="the base, with more of the other model where their columns differ in direction",
    paper="hako-mikan, sd-webui-supermerger (cosineA, cosineB), https://github.com/hako-mikan/sd-webui-supermerger",
    formula="θ_j = k_j θ_A,j + (1 − k_j) θ_B,j, k_j = clip((s_j − low) / (high − low) − α, 0, 1), "
    "s_j = (cos(θ_A,j, θ_B,j) + cos(θ_A, θ_B)) / 2, θ_A = base_model, θ_B = the other model",
    base="required",
    parameters=(
        Parameter("alpha", "a shift towards the other model", default=0.0, high=1.0, search=(0.0, 1.0)),
        Parameter(
            "mode",
            "cosineA favors base_model's structure, cosineB the other model's",
            kind="choice",
            default="cosineA",
            choices=("cosineA", "cosineB"),
            search=("cosineA", "cosineB"),
        ),
    ),
    decide=decide,
    max_models=1,
)
