"""Spherical interpolation of two models, or of two task vectors if there is a base.

Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985, in the form of mergekit's nuslerp. With x_i = θ_i,
or θ_i − θ_b if there is a base_model:

``θ = θ_b + sin((1−t)Ω)/sin Ω · x_0 + sin(tΩ)/sin Ω · x_1,  t = w_1 / (w_0 + w_1),  cos Ω = ⟨x_0, x_1⟩ / (‖x_0‖ ‖x_1‖)``

t is 1/2 if the weights sum to zero. Without ``nuslerp_flatten``, every vector along the last axis has its own Ω, or
with ``nuslerp_row_wise`` (mergekit's name) every vector along the first axis.

As in mergekit, a zero vector is at a right angle to all others. Unlike in mergekit, vectors within 1e-4 of parallel or
opposite are interpolated linearly, because sin Ω would magnify rounding errors.
"""

from mergesearch.merge_ops.kernels.plans import SMALLEST_NORM, Plan
from mergesearch.merge_ops.methods._base import Method, Parameter, ParameterValues, Statistics
from mergesearch.merge_ops.methods._gram import Vectors
from mergesearch.merge_ops.methods._parameters import WEIGHT, sole_model

SMALLEST_TOTAL = 1e-6
SMALLEST_SINE = 1e-4


def decide(statistics: Statistics, values: ParameterValues) -> Plan:
    import numpy as np

    vectors = Vectors(statistics, _axis(values))
    w0, w1 = values.numbers("weight")
    t = 0.5 if abs(w0 + w1) < SMALLEST_TOTAL else w1 / (w0 + w1)
    norms = [np.maximum(np.sqrt(vectors.dot(i, i)), SMALLEST_NORM) for i in range(2)]
    cosine = np.clip(vectors.dot(0, 1) / norms[0] / norms[1], -1, 1)
    omega, sine = np.arccos(cosine), np.sqrt(1 - cosine**2)
    linear = sine < SMALLEST_SINE
    divisor = np.where(linear, 1, sine)
    first = np.where(linear, 1 - t, np.sin((1 - t) * omega) / divisor)
    second = np.where(linear, t, np.sin(t * omega) / divisor)
    return vectors.combination([first, second])


def _axis(values: ParameterValues) -> int | None:
    if values.switch("nuslerp_flatten"):
        return None
    return 0 if values.switch("nuslerp_row_wise") else -1


METHOD = Method(
    name="nuslerp",
    summary="spherical interpolation of two models or two task vectors, whole or row by row",
    paper="Shoemake, Animating rotation with quaternion curves, https://doi.org/10.1145/325334.325242",
    formula="θ = θ_b + (sin((1−t)Ω) x_0 + sin(tΩ) x_1) / sin Ω, t = w_1 / (w_0 + w_1)",
    base="optional",
    parameters=(
        WEIGHT,
        Parameter("nuslerp_flatten", "take each tensor as one vector", kind="switch", default=True),
        Parameter(
            "nuslerp_row_wise",
            "without nuslerp_flatten: take vectors along the first axis, not the last",
            kind="switch",
            default=False,
        ),
    ),
    decide=decide,
    copied=lambda values, _, has_base: None if has_base else sole_model(values.numbers("weight"), divide=True),
    min_models=2,
    max_models=2,
)
