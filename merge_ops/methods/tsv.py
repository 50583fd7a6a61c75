"""TSV-Merge: the leading singular vectors of every task, decorrelated.

Gargiulo et al., "Task singular vectors: reducing task interference in model merging", arXiv:2412.00081. Of the task
matrices δ_i = U_i Σ_i V_iᵀ each of T tasks keeps its r/T largest singular values; the kept vectors, side by side, are
replaced by the nearest orthonormal ones (orthogonal Procrustes):

``Û = [U_1 … U_T] = P_U D_U Q_Uᵀ,  U_⊥ = P_U Q_Uᵀ,  V_⊥ likewise,  θ = θ_b + λ Σ_i w_i U_⊥,i Σ_i V_⊥,iᵀ``

The paper's weights are 1. Tensors that are not matrices get ``θ_b + λ Σ w_i δ_i / T``, the paper's average. Directions
that Û does not span are left out: those of two equal task matrices are one, not one and a random other. The parts U_⊥,i
Σ_i V_⊥,iᵀ are computed once, and kept (a model's size for each task), so that a candidate costs one pass.
"""

from dataclasses import replace
from math import prod

from mergesearch.merge_ops.kernels.plans import LinearCombination, Plan
from mergesearch.merge_ops.methods._base import Method, Parameter, Statistics, Values
from mergesearch.merge_ops.methods._shared import LAMBDA, WEIGHT


def decide(statistics: Statistics, values: Values) -> Plan:
    weights = [w * values.number("lambda") for w in values.numbers("weight")]
    if len(statistics.shape) != 2:
        return LinearCombination(tuple(w / statistics.count for w in weights), base=1.0, task_vectors=True)
    from mergesearch.merge_ops.methods._spectral import added, decorrelated

    return added(decorrelated(statistics, values.number("rank_share")), weights)


def kept(shape: tuple[int, ...], models: int) -> int:
    """Every model's part of the sum, in float32."""
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
        Parameter("rank_share", "of the r/T singular values of a task, the part kept", default=1.0, low=0.0, high=1.0),
    ),
    decide=decide,
    kept=kept,
)
