"""DELLA's drops with a plain sum.

Deep et al., "DELLA-Merging", arXiv:2406.11617: ``θ = θ_b + λ Σ w_i m_i δ_i / p_i``, with the m_i and p_i of ``della``.
"""

from mergesearch.merge_ops.kernels.plans import SignConsensus
from mergesearch.merge_ops.methods import della
from mergesearch.merge_ops.methods._base import Method, Statistics, Values
from mergesearch.merge_ops.methods._shared import DENSITY, INT8_MASK, LAMBDA, SEED, WEIGHT, divided, normalize, rescale


def decide(statistics: Statistics, values: Values) -> SignConsensus:
    return SignConsensus(
        weights=divided(values.numbers("weight"), values.switch("normalize")),
        sparsity=della.drops(statistics, values),
        lambda_=values.number("lambda"),
    )


METHOD = Method(
    name="della_linear",
    summary="task vectors thinned at random, small changes first, summed",
    paper="Deep et al., DELLA-Merging, https://arxiv.org/abs/2406.11617",
    formula="θ = θ_b + λ Σ w_i m_i δ_i / p_i, m_i ~ Bernoulli(p_i), p_i = density − ε + 2ε (r − 1) / (n − 1)",
    base="required",
    parameters=(WEIGHT, DENSITY, della.EPSILON, LAMBDA, normalize(False), rescale("inverse"), SEED, INT8_MASK),
    decide=decide,
    kept=della.kept,
)
