"""Cosine-weighted addition: the more a row differs in direction, the more of the other model's row is added.

After "cosineA" and "cosineB" of hako-mikan, sd-webui-supermerger, github.com/hako-mikan/sd-webui-supermerger, which set
the ratio of two models by their cosine similarity, scaled to [0, 1] and shifted by α. Here for every row r (the vector
along the last axis), with A the base_model and B the other, scaled over the rows of the tensor:

``θ_r = θ_A,r + (1 − k_r) (θ_B,r − θ_A,r),  k_r = clip((c_r − min c) / (max c − min c) − α, 0, 1)``

with ``c_r = cos(θ_A,r, θ_B,r)``. The scaled similarity is 1 where all rows are as similar, so that a vector is the
plain ``(1 − α) θ_A + α θ_B``. Swap the models for cosineB, which favours the other one.
"""

from mergesearch.merge_ops.methods._base import BASE, Method, Parameter, Statistics, Values
from mergesearch.merge_ops.plans import SMALLEST_NORM, LinearCombination, Plan

SMALLEST_SPREAD = 1e-12


def decide(statistics: Statistics, values: Values) -> Plan:
    """A zero row counts as similar: it has no direction that could differ."""
    import numpy as np

    from mergesearch.merge_ops.rowwise import combination

    alpha = values.number("alpha")
    if len(statistics.shape) < 2 or statistics.size == 0:
        return LinearCombination((alpha,), base=1 - alpha)
    aa, bb, ab = (statistics.row_dots(i, j, -1, False) for i, j in ((BASE, BASE), (0, 0), (BASE, 0)))
    norms = np.sqrt(aa * bb)
    cosine = np.where(norms > SMALLEST_NORM**2, ab / np.maximum(norms, SMALLEST_NORM**2), 1.0)
    spread = cosine.max() - cosine.min()
    similarity = (cosine - cosine.min()) / spread if spread > SMALLEST_SPREAD else np.ones_like(cosine)
    kept = np.clip(similarity - alpha, 0, 1)
    return combination([1 - kept], statistics.shape, -1, base=kept)


METHOD = Method(
    name="cosine_add",
    summary="the base, with more of the other model where their rows differ in direction",
    paper="hako-mikan, sd-webui-supermerger (cosineA, cosineB), github.com/hako-mikan/sd-webui-supermerger",
    formula="θ_r = θ_A,r + (1 − k_r) (θ_B,r − θ_A,r), k_r = clip(scaled cos(θ_A,r, θ_B,r) − α, 0, 1)",
    base="required",
    parameters=(
        Parameter("alpha", "a shift towards the other model", default=0.0, low=0.0, high=1.0, search=(0.0, 1.0)),
    ),
    decide=decide,
    most=1,
)
