"""TSV-Merge: the sum of every task's leading singular vectors, after decorrelation.

Gargiulo et al., "Task singular vectors: reducing task interference in model merging", arXiv:2412.00081. Each of the T
task matrices δ_i = U_i Σ_i V_iᵀ keeps its r/T largest singular values. The kept vectors of all tasks, side by side, are
replaced by the nearest orthonormal ones (orthogonal Procrustes):

``Û = [U_1 … U_T] = P_U D_U Q_Uᵀ,  U_⊥ = P_U Q_Uᵀ,  V_⊥ likewise,  θ = θ_b + λ Σ_i w_i U_⊥,i Σ_i V_⊥,iᵀ``

The paper's weights are 1. Tensors that are not matrices get ``θ_b + λ Σ w_i δ_i / T``, the paper's average. Directions
that Û does not span are left out: the directions of two equal task matrices count once, without random ones in
addition. The terms U_⊥,i Σ_i V_⊥,iᵀ, which have the size of a model for each task, are computed once and cached.
"""

from dataclasses import replace
from math import prod

from mergesearch.merge_ops.kernels.plans import LinearCombination, Plan
from mergesearch.merge_ops.methods._base import Method, Parameter, ParameterValues, Statistics
from mergesearch.merge_ops.methods._parameters import LAMBDA, WEIGHT, base_without


def decide(statistics: Statistics, values: ParameterValues) -> Plan:
    weights = [w * values.number("lambda") for w in values.numbers("weight")]
    if len(statistics.shape) != 2:
        return LinearCombination(tuple(w / statistics.count for w in weights), base=1.0, task_vectors=True)
    from mergesearch.merge_ops.methods._spectral import added, decorrelated

    return added(decorrelated(statistics, values.number("rank_share")), weights)


def statistics_bytes(shape: tuple[int, ...], models: int) -> int:
    """Every model's term of the sum, in float32."""
    return 4 * models * prod(shape) if len(shape) == 2 else 0


METHOD = Method(
    name="tsv",
    summary="the base plus every task's leading singular vectors, decorrelated",
    paper="Gargiulo et al., Task singular vectors, https://arxiv.org/abs/2412.00081",
    formula="θ = θ_b + λ Σ w_i U_⊥,i Σ_i V_⊥,iᵀ",
    base="required",
    parameters=(
        replace(WEIGHT, default=1.0),
        LAMBDA,
        Parameter(
            "rank_share", "the fraction of a task's r/T singular values that is kept", default=1.0, low=0.0, high=1.0
        ),
    ),
    decide=decide,
    copied=base_without("weight", "lambda"),
    statistics_bytes=statistics_bytes,
    heavy=True,
)
