"""DARE's random drops with TIES' sign election.

Yu et al., "Language models are super mario", arXiv:2311.03099, followed by the election and the disjoint sum of Yadav
et al., arXiv:2306.01708.
"""

from mergesearch.merge_ops.kernels.plans import SignConsensus
from mergesearch.merge_ops.methods import dare_linear
from mergesearch.merge_ops.methods._base import Method, Statistics, Values
from mergesearch.merge_ops.methods._shared import SIGN, drops, vote


def decide(_: Statistics, values: Values) -> SignConsensus:
    return SignConsensus(
        weights=values.numbers("weight"),
        sparsity=drops(values),
        elect=True,
        normalize=values.switch("normalize"),
        lambda_=values.number("lambda"),
        vote=vote(values),
    )


METHOD = Method(
    name="dare_ties",
    summary="randomly thinned and rescaled task vectors, summed where they agree in sign",
    paper="Yu et al., Language models are super mario (DARE), https://arxiv.org/abs/2311.03099",
    formula="θ = θ_b + λ Σ_{i∈A} w_i m_i δ_i / p_i, m_i ~ Bernoulli(p_i), p_i = density",
    base="required",
    parameters=(*dare_linear.METHOD.parameters, SIGN),
    decide=decide,
)
