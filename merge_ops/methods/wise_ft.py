"""WiSE-FT: linear interpolation between a base and its fine-tune.

Wortsman et al., "Robust fine-tuning of zero-shot models", arXiv:2109.01903: ``θ = (1 − α) θ_b + α θ_1``.
"""

from mergesearch.merge_ops.kernels.plans import LinearCombination
from mergesearch.merge_ops.methods._base import BASE, Method, Parameter, ParameterValues, Statistics
from mergesearch.merge_ops.methods._parameters import ends


def decide(_: Statistics, values: ParameterValues) -> LinearCombination:
    alpha = values.number("alpha")
    return LinearCombination((alpha,), base=1 - alpha)


METHOD = Method(
    name="wise_ft",
    summary="the straight line from base_model (alpha = 0) to the other model (alpha = 1)",
    paper="Wortsman et al., Robust fine-tuning of zero-shot models, https://arxiv.org/abs/2109.01903",
    formula="θ = (1 − α) θ_b + α θ_1",
    base="required",
    parameters=(Parameter("alpha", "the position between base and fine-tune", default=0.5, search=(0.0, 1.0)),),
    decide=decide,
    copied=ends("alpha", BASE, 0),
    max_models=1,
)
