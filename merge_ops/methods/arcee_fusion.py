"""Arcee Fusion: of what the other model changed, only the most important.

Arcee AI, "Meet mergekit v0.1: Arcee Fusion", arcee.ai/blog, as mergekit has it. The importance of an element is its
change times the divergence of its row (the vector along the last axis), and what is above an outlier's threshold is
taken:

``s = |θ_1 − θ_b| · KL(softmax θ_1 ‖ softmax θ_b),  θ = θ_b + [s ≥ Q_2 + 1.5 (Q_3 − Q_1)] (θ_1 − θ_b)``

with 1e-8 added to both distributions. The quartiles are those of all elements of the tensor; mergekit samples a million
of larger ones, without a seed.
"""

from mergesearch.merge_ops.kernels.plans import Elementwise
from mergesearch.merge_ops.methods._base import Method, Statistics, Values


def decide(statistics: Statistics, _: Values) -> Elementwise:
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
    most=1,
)
