"""DARE with a plain sum: random elements of each task vector are dropped, the others rescaled.

Yu et al., "Language models are super mario", arXiv:2311.03099: ``δ'_i = m_i δ_i / p_i, m_i ~ Bernoulli(p_i)``, then
``θ = θ_b + λ Σ_i w_i δ'_i``. ``rescale: l1`` is mergekit's form, which keeps the L1 norm instead.
"""

from mergesearch.merge_ops.kernels.plans import SignConsensus
from mergesearch.merge_ops.methods._base import Method, Statistics, Values
from mergesearch.merge_ops.methods._shared import (
    DENSITY,
    INT8_MASK,
    LAMBDA,
    SEED,
    WEIGHT,
    divided,
    drops,
    normalize,
    rescale,
)


def decide(_: Statistics, values: Values) -> SignConsensus:
    return SignConsensus(
        weights=divided(values.numbers("weight"), values.switch("normalize")),
        sparsity=drops(values),
        lambda_=values.number("lambda"),
    )


METHOD = Method(
    name="dare_linear",
    summary="randomly thinned and rescaled task vectors, summed",
    paper="Yu et al., Language models are super mario (DARE), https://arxiv.org/abs/2311.03099",
    formula="θ = θ_b + λ Σ w_i m_i δ_i / p_i, m_i ~ Bernoulli(p_i), p_i = density",
    base="required",
    parameters=(WEIGHT, DENSITY, LAMBDA, normalize(False), rescale("inverse"), SEED, INT8_MASK),
    decide=decide,
)
