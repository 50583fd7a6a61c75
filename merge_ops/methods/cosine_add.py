"""Cosine-weighted addition: the more a column differs in direction, the more of the other model's column is taken.

hako-mikan, sd-webui-supermerger, "cosineA" and "cosineB", github.com/hako-mikan/sd-webui-supermerger. With A the
base_model and B the other, for every column j (the vector along the first axis):

``θ_j = k_j θ_A,j + (1 − k_j) θ_B,j,  k_j = clip((s_j − low) / (high − low) − α, 0, 1),  s_j = (c_j + c) / 2``

with c_j = cos(θ_A,j, θ_B,j) and c the cosine of the whole tensors, in ``cosineA`` of tensors whose columns were brought
to length one. low and high are the extremes over all of the model's columns, without a hundredth at either end: of s in
``cosineB``, of c_j in ``cosineA``. There cosineA is said to favour A's structure, cosineB B's.

A zero column has the cosine 0; where all columns are as similar, k is 1 − α. A large negative α (−100) leaves a tensor
as in A: in a filter on ``first_stage_model`` it spares the VAE, as supermerger does. Tensors that only one model has,
or in another shape, do not count for the extremes.
"""

from functools import partial
from typing import TYPE_CHECKING

from mergesearch.merge_ops.kernels.plans import LinearCombination, Plan
from mergesearch.merge_ops.methods._base import Method, Parameter, Statistics, Values

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

SMALLEST_SPREAD = 1e-12


def decide(statistics: Statistics, values: Values) -> Plan:
    import numpy as np

    from mergesearch.merge_ops.kernels.rowwise import combination
    from mergesearch.merge_ops.methods._similarity import similarity_range

    mode, alpha = values.text("mode"), values.number("alpha")
    if statistics.size == 0:
        return LinearCombination((alpha,), base=1 - alpha)
    low, high = statistics.everywhere(f"{mode} range", 0, partial(similarity_range, mode))
    similar = statistics.derived(f"{mode} similarities", partial(_similarities, mode))
    scaled = (similar - low) / (high - low) if high - low > SMALLEST_SPREAD else np.ones_like(similar)
    kept = np.clip(scaled - alpha, 0, 1)
    return combination([1 - kept], statistics.shape, 0, base=kept)


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
            "cosineA favours base_model's structure, cosineB the other's",
            kind="choice",
            default="cosineA",
            choices=("cosineA", "cosineB"),
            search=("cosineA", "cosineB"),
        ),
    ),
    decide=decide,
    most=1,
)
