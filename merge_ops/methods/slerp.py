"""Spherical linear interpolation between two models.

Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985, as mergekit applies it to weights: the angle is
that between the tensors as flat vectors, and the tensors themselves are interpolated:

``θ = sin((1−t)Ω)/sin Ω · θ_0 + sin(tΩ)/sin Ω · θ_1,  cos Ω = ⟨θ_0, θ_1⟩ / (‖θ_0‖ ‖θ_1‖)``
"""

from math import acos, sin, sqrt

from mergesearch.merge_ops.kernels.plans import LinearCombination
from mergesearch.merge_ops.methods._base import BASE, Method, Parameter, ParameterValues, Statistics
from mergesearch.merge_ops.methods._parameters import ends

COLLINEAR = 0.9995
SMALLEST_NORM = 1e-8


def decide(statistics: Statistics, values: ParameterValues) -> LinearCombination:
    """Interpolates linearly if the vectors are nearly parallel or opposite, because sin Ω vanishes there."""
    t, cosine = values.number("t"), _cosine(statistics)
    if abs(cosine) > COLLINEAR:
        return LinearCombination((t,), base=1 - t)
    omega = acos(cosine)
    return LinearCombination((sin(t * omega) / sin(omega),), base=sin((1 - t) * omega) / sin(omega))


def _cosine(statistics: Statistics) -> float:
    """A zero vector is at a right angle to all others, as in mergekit."""
    n0, n1 = (sqrt(statistics.dot(i, i)) for i in (BASE, 0))
    if min(n0, n1) <= SMALLEST_NORM:
        return 0.0
    return max(-1.0, min(1.0, statistics.dot(BASE, 0) / n0 / n1))


METHOD = Method(
    name="slerp",
    summary="spherical interpolation from base_model (t = 0) to the other model (t = 1)",
    paper="Shoemake, Animating rotation with quaternion curves, https://doi.org/10.1145/325334.325242",
    formula="θ = (sin((1−t)Ω) θ_0 + sin(tΩ) θ_1) / sin Ω, cos Ω = ⟨θ_0, θ_1⟩ / (‖θ_0‖ ‖θ_1‖), θ_0 = base_model",
    base="required",
    parameters=(
        Parameter("t", "the position between the two models; beyond 0 and 1 it extrapolates", search=(0.0, 1.0)),
    ),
    decide=decide,
    copied=ends("t", BASE, 0),
    max_models=1,
)
