"""TIES: trim, elect sign, disjoint merge.

Yadav et al., "TIES-Merging: resolving interference when merging models", arXiv:2306.01708, algorithm 1. Each task
vector keeps its largest elements; each element takes the sign with the larger weighted mass; the mean is over those
that agree:

``θ = θ_b + λ Σ_{i∈A} w_i δ'_i / Σ_{i∈A} w_i,  A = {i : sign(w_i δ'_i) = sign(Σ_j w_j δ'_j)}``

As in mergekit, trimming is per tensor unless ``scope`` is global, and a sum of zero elects +.
"""

from mergesearch.merge_ops.kernels.plans import SignConsensus
from mergesearch.merge_ops.methods._base import Method, Statistics, Values
from mergesearch.merge_ops.methods._shared import (
    DENSITY,
    INT8_MASK,
    LAMBDA,
    SCOPE,
    SIGN,
    WEIGHT,
    normalize,
    quantile_tables,
    rescale,
    trim,
    vote,
)


def decide(statistics: Statistics, values: Values) -> SignConsensus:
    densities, rescaled, scope = values.numbers("density"), values.shared["rescale"], values.text("scope")
    return SignConsensus(
        weights=values.numbers("weight"),
        sparsity=tuple(trim(statistics, i, density, rescaled, scope) for i, density in enumerate(densities)),
        elect=True,
        normalize=values.switch("normalize"),
        lambda_=values.number("lambda"),
        vote=vote(values),
    )


METHOD = Method(
    name="ties",
    summary="trimmed task vectors, summed where they agree in sign",
    paper="Yadav et al., TIES-Merging, https://arxiv.org/abs/2306.01708",
    formula="θ = θ_b + λ Σ_{i∈A} w_i δ'_i / Σ_{i∈A} w_i",
    base="required",
    parameters=(WEIGHT, DENSITY, LAMBDA, normalize(True), rescale("none"), SCOPE, SIGN, INT8_MASK),
    decide=decide,
    kept=quantile_tables,
)
