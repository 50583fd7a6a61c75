"""Barycentric interpolation of several models on a hypersphere.

Goddard, "Multi-SLERP", goddard.blog/posts/multislerp-wow-what-a-cool-idea, as implemented in mergekit. With x_i = θ_i
(θ_i − θ_b if there is a base_model), u_i = x_i / (‖x_i‖ + ε) and m = Σ w_i u_i / ‖Σ w_i u_i‖, the mean is taken in the
tangent space at m, mapped back to the sphere and scaled to the mean length:

``θ = θ_b + Σ w_i ‖x_i‖ · exp_m(Σ w_i (u_i − ⟨u_i, m⟩ m))``

The mean in the tangent space is zero, because Σ w_i u_i is parallel to m. So the result is exactly

``θ = θ_b + Σ w_i ‖x_i‖ · Σ w_i u_i / ‖Σ w_i u_i‖``

Unlike in mergekit, weights that sum to zero are not divided by their sum. If Σ w_i u_i is zero, the result is the
weighted sum for any number of models, where mergekit raises an error for more than two.
"""

from dataclasses import replace

from mergesearch.merge_ops.kernels.plans import Plan
from mergesearch.merge_ops.methods._base import Method, Parameter, ParameterValues, Statistics
from mergesearch.merge_ops.methods._gram import Vectors
from mergesearch.merge_ops.methods._parameters import WEIGHT, normalize, normalized


def decide(statistics: Statistics, values: ParameterValues) -> Plan:
    """One model gives itself, whatever its weight."""
    import numpy as np

    vectors, eps = Vectors(statistics), values.number("eps")
    if vectors.count == 1:
        return vectors.combination([1.0])
    w = np.asarray(normalized(values.numbers("weight"), values.switch("normalize_weights")))
    gram = vectors.gram()
    lengths = np.sqrt(np.diag(gram))
    scaled = w / (lengths + eps)
    mean = max(0.0, float(scaled @ gram @ scaled)) ** 0.5
    return vectors.combination(list(w if mean < eps else (w @ lengths) * scaled / mean))


METHOD = Method(
    name="multislerp",
    summary="weighted mean of several models' directions, at their mean length",
    paper="Goddard, Multi-SLERP, https://goddard.blog/posts/multislerp-wow-what-a-cool-idea",
    formula="θ = θ_b + Σ w_i ‖x_i‖ · Σ w_i u_i / ‖Σ w_i u_i‖, u_i = x_i / ‖x_i‖",
    base="optional",
    parameters=(
        WEIGHT,
        replace(normalize(True), name="normalize_weights"),
        Parameter("eps", "smaller lengths count as zero", default=1e-8, low=0.0, high=1.0),
    ),
    decide=decide,
    corners="Weights that sum to zero are not divided by their sum. If the weighted sum of the directions is zero, "
    "the result is the weighted sum of the models, where mergekit has an error for more than two.",
    copied=lambda _, count, has_base: 0 if count == 1 and not has_base else None,
)
