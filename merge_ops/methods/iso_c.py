"""Isotropic merging in the common subspace (Iso-C): task arithmetic with all singular values alike.

Marczak et al., "No task left behind: isotropic model merging with common and task-specific subspaces",
arXiv:2502.04959, section 4. With Σ_i δ_i = U diag(σ) Vᵀ:

``θ = θ_b + λ σ̄ U Vᵀ,  σ̄ = mean(σ)``

Tensors that are not matrices get ``θ_b + λ Σ δ_i / T``, the paper's average. If the sum has not full rank, U Vᵀ and the
mean are over its nonzero singular values, because the other directions would be random. The matrix U Vᵀ σ̄, which has
the size of the tensor, is computed once and cached.
"""

from math import prod

from mergesearch.merge_ops.kernels.plans import LinearCombination, Plan
from mergesearch.merge_ops.methods._base import Method, ParameterValues, Statistics
from mergesearch.merge_ops.methods._parameters import LAMBDA, base_without


def decide(statistics: Statistics, values: ParameterValues) -> Plan:
    factor = values.number("lambda")
    if len(statistics.shape) != 2:
        share = factor / statistics.count
        return LinearCombination((share,) * statistics.count, base=1.0, task_vectors=True)
    from mergesearch.merge_ops.methods._spectral import added, isotropic

    return added([isotropic(statistics)], [factor])


def statistics_bytes(shape: tuple[int, ...], _: int) -> int:
    """The matrix that is added, in float32."""
    return 4 * prod(shape) if len(shape) == 2 else 0


METHOD = Method(
    name="iso_c",
    summary="the base plus the sum of task matrices with all singular values at their mean",
    paper="Marczak et al., No task left behind (Iso-C), https://arxiv.org/abs/2502.04959",
    formula="θ = θ_b + λ σ̄ U Vᵀ, Σ δ_i = U diag(σ) Vᵀ",
    base="required",
    parameters=(LAMBDA,),
    decide=decide,
    copied=base_without("lambda"),
    statistics_bytes=statistics_bytes,
    heavy=True,
)
