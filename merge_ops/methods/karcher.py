"""Karcher mean: the point on the sphere with the smallest sum of squared angles to the models.

Karcher, "Riemannian center of mass and mollifier smoothing", 1977, as in Wang, Ye and Yin, "Functionality-oriented LLM
merging on the Fisher–Rao manifold", arXiv:2603.04972. With u_i = θ_i / ‖θ_i‖ and α_i = 1/N, starting at the mean
direction:

``v = Σ α_i (ϑ_i / sin ϑ_i) (u_i − cos ϑ_i μ), cos ϑ_i = ⟨μ, u_i⟩;  μ ← cos‖v‖ μ + sin‖v‖ v / ‖v‖``

until ‖v‖ < tol. Then ``θ = Σ α_i ‖θ_i‖ · μ``. μ stays in the span of the u_i, so the iterations run on its
coefficients, with inner products from the Gram matrix of the models.

Unlike in mergekit, directions that cancel out, and so have no mean, give the plain average rather than the first
model's direction. A model opposite to μ has no tangent direction and does not move μ.
"""

from typing import TYPE_CHECKING

from mergesearch.merge_ops.kernels.plans import Plan
from mergesearch.merge_ops.methods._base import Method, Parameter, ParameterValues, Statistics
from mergesearch.merge_ops.methods._gram import Vectors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SMALLEST_SINE = 1e-9


def decide(statistics: Statistics, values: ParameterValues) -> Plan:
    """The coefficients depend only on when the iterations stop, so most candidates share them."""
    vectors, settings = Vectors(statistics), (int(values.number("max_iter")), values.number("tol"))
    return vectors.combination(
        statistics.derived("karcher", lambda *_: _coefficients(vectors, *settings), settings=settings)
    )


def _coefficients(vectors: Vectors, iterations: int, tol: float) -> list[float]:
    """Returns each model's coefficient.

    Models whose norm is at most ``tol`` have no direction, but count in the mean norm.
    """
    import numpy as np

    gram = vectors.gram()
    norms = np.sqrt(np.diag(gram))
    valid = norms > tol
    coefficients = np.zeros(vectors.count)
    if valid.any():
        cosines = gram[np.ix_(valid, valid)] / np.outer(norms[valid], norms[valid])
        mean = _mean(cosines, iterations, tol)
        if mean is None:
            return [1 / vectors.count] * vectors.count
        coefficients[valid] = norms.mean() * mean / norms[valid]
    return [float(c) for c in coefficients]


def _mean(cosines: "NDArray[np.float64]", iterations: int, tol: float) -> "NDArray[np.float64] | None":
    """Returns the coefficients of the unit vector μ on unit vectors with these inner products, or None if undefined."""
    import numpy as np

    alpha = np.full(len(cosines), 1 / len(cosines))
    start = _norm(alpha, cosines)
    if start < tol:
        return None
    mean = alpha / start
    for _ in range(iterations):
        step = _tangent(mean, alpha, cosines)
        size = _norm(step, cosines)
        if size < tol:
            break
        mean = np.cos(size) * mean + np.sin(size) / size * step
        mean = mean / _norm(mean, cosines)
    return mean


def _tangent(
    mean: "NDArray[np.float64]", alpha: "NDArray[np.float64]", cosines: "NDArray[np.float64]"
) -> "NDArray[np.float64]":
    """Returns the coefficients of v, the mean in the tangent space at μ."""
    import numpy as np

    cosine = np.clip(cosines @ mean, -1, 1)
    angle, sine = np.arccos(cosine), np.sqrt(1 - cosine**2)
    factors = np.where(sine > SMALLEST_SINE, alpha * angle / np.maximum(sine, SMALLEST_SINE), 0)
    return np.asarray(factors - (factors @ cosine) * mean)


def _norm(coefficients: "NDArray[np.float64]", cosines: "NDArray[np.float64]") -> float:
    return float(max(0.0, float(coefficients @ cosines @ coefficients)) ** 0.5)


METHOD = Method(
    name="karcher",
    summary="the mean of several models on the sphere, at their mean length",
    paper="Wang et al., Functionality-oriented LLM merging on the Fisher–Rao manifold, https://arxiv.org/abs/2603.04972",
    formula="θ = Σ ‖θ_i‖/N · argmin_μ Σ ∠(μ, θ_i)²",
    base="input",
    parameters=(
        Parameter("max_iter", "the largest number of iterations", kind="integer", default=10, low=0, high=10000),
        Parameter("tol", "the step at which to stop, and the smallest norm", default=1e-5, low=0.0, high=1.0),
    ),
    decide=decide,
    copied=lambda _, count, __: 0 if count == 1 else None,
)
