"""Model Breadcrumbs' trimming with TIES' sign election.

Davari and Belilovsky, "Model Breadcrumbs", arXiv:2312.06795, followed by the election and the disjoint sum of Yadav et
al., arXiv:2306.01708.
"""

from mergesearch.merge_ops.kernels.plans import SignConsensus
from mergesearch.merge_ops.methods import breadcrumbs
from mergesearch.merge_ops.methods._base import Method, Statistics, Values
from mergesearch.merge_ops.methods._shared import SIGN, vote


def decide(statistics: Statistics, values: Values) -> SignConsensus:
    return SignConsensus(
        weights=values.numbers("weight"),
        sparsity=breadcrumbs.trims(statistics, values),
        elect=True,
        normalize=values.switch("normalize"),
        lambda_=values.number("lambda"),
        vote=vote(values),
    )


METHOD = Method(
    name="breadcrumbs_ties",
    summary="task vectors without their largest and smallest changes, summed where they agree in sign",
    paper="Davari and Belilovsky, Model Breadcrumbs, https://arxiv.org/abs/2312.06795",
    formula="θ = θ_b + λ Σ_{i∈A} w_i m_i δ_i, m_i = [threshold_i ≤ |δ_i| ≤ ceiling_i]",
    base="required",
    parameters=(*breadcrumbs.METHOD.parameters, SIGN),
    decide=decide,
    kept=breadcrumbs.METHOD.kept,
)
