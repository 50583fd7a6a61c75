"""Arcee Fusion: the base with only the most important changes of the other model.

Arcee AI, "Meet mergekit v0.1: Arcee Fusion", arcee.ai/blog, as implemented in mergekit. The importance s of an element
is its change times the divergence of its row (the vector along the last axis). Elements whose importance is an outlier
are taken:

``s = |θ_1 − θ_b| · KL(softmax θ_1 ‖ softmax θ_b),  θ = θ_b + [s ≥ Q_2 + 1.5 (Q_3 − Q_1)] (θ_1 − θ_b)``

1e-8 is added to both distributions. The quartiles are those of all elements of the tensor. mergekit samples a million
elements of larger tensors, without a seed.
"""

from mergesearch.merge_ops.kernels.plans import Elementwise
from mergesearch.merge_ops.methods._base import Method, ParameterValues, Statistics


def decide(statistics: Statistics, _: ParameterValues) -> Elementwise:
    from mergesearch.merge_ops.methods._selection import Importance, take_important

    return take_important(statistics.derived("importance", Importance.of), statistics.shape)


METHOD = Method(
    name="arcee_fusion",
    summary="the base, with the most important changes of the other model",
    paper="Arcee AI, Meet mergekit v0.1, https://www.arcee.ai/blog/meet-mergekit-v0-1-arcee-fusion-"
    "expanded-model-support-multi-gpu-acceleration",
    formula="θ = θ_b + [s ≥ Q_2 + 1.5 (Q_3 − Q_1)] δ, s = |δ| KL(softmax θ_1 ‖ softmax θ_b)",
    base="required",
    parameters=(),
    decide=decide,
    heavy=True,
    corners="The quartiles are those of all elements, where mergekit samples a million of them without a seed.",
    max_models=1,
)
