"""Model Breadcrumbs: the largest and the smallest changes of each task vector are dropped.

Davari and Belilovsky, "Model Breadcrumbs: scaling multi-task model merging with sparse masks", arXiv:2312.06795, in the
form of mergekit: ``θ = θ_b + λ Σ w_i m_i δ_i``, where m_i drops the γ n largest magnitudes and then the smallest, until
density · n are left. The paper's β is ``gamma``, its γ ``1 − density − gamma``. Where both cannot be, fewer of the
largest are dropped; a density above zero keeps at least one element, and a density of one keeps all.
"""

from collections.abc import Callable
from functools import partial
from math import inf, nextafter

from mergesearch.merge_ops.kernels.plans import SignConsensus, Sparsity
from mergesearch.merge_ops.methods._base import Method, Parameter, Quantiles, Scalar, Statistics, Values
from mergesearch.merge_ops.methods._shared import (
    DENSITY,
    INT8_MASK,
    LAMBDA,
    SCOPE,
    WEIGHT,
    divided,
    matched,
    normalize,
    quantile_tables,
    quantiles,
    rescale,
)

GAMMA = Parameter(
    "gamma",
    "the part of the task vector that is dropped as outliers",
    default=0.01,
    per_model=True,
    low=0.0,
    high=1.0,
    search=(0.0, 0.1),
)


def decide(statistics: Statistics, values: Values) -> SignConsensus:
    return SignConsensus(
        weights=divided(values.numbers("weight"), values.switch("normalize")),
        sparsity=trims(statistics, values),
        lambda_=values.number("lambda"),
    )


def trims(statistics: Statistics, values: Values) -> tuple[Sparsity, ...]:
    numbers = zip(values.numbers("density"), values.numbers("gamma"), strict=True)
    rescaled, scope = values.shared["rescale"], values.text("scope")
    return tuple(
        _trim(partial(quantiles, statistics, model, scope), *each, rescaled) for model, each in enumerate(numbers)
    )


def _trim(magnitudes: Callable[[], Quantiles], density: float, gamma: float, rescaled: Scalar) -> Sparsity:
    if density >= 1:
        return Sparsity()
    sizes = magnitudes()
    if density <= 0 or sizes.size == 0:
        return Sparsity(threshold=inf)
    kept = max(1, int(density * sizes.size))
    dropped = min(int(gamma * sizes.size), sizes.size - kept)
    ceiling = sizes.largest(dropped + 1) if dropped else inf
    threshold = sizes.largest(dropped + kept)
    if rescaled in ("l1", True):
        left = sizes.sum_from(threshold) - sizes.sum_from(nextafter(ceiling, inf))
        return Sparsity(threshold, ceiling, scale=matched(sizes.total, left))
    return Sparsity(threshold, ceiling, scale=1 / density if rescaled == "inverse" else 1.0)


METHOD = Method(
    name="breadcrumbs",
    summary="task vectors without their largest and smallest changes, summed",
    paper="Davari and Belilovsky, Model Breadcrumbs, https://arxiv.org/abs/2312.06795",
    formula="θ = θ_b + λ Σ w_i m_i δ_i, m_i = [threshold_i ≤ |δ_i| ≤ ceiling_i]",
    base="required",
    parameters=(WEIGHT, DENSITY, GAMMA, LAMBDA, normalize(False), rescale("none"), SCOPE, INT8_MASK),
    decide=decide,
    kept=quantile_tables,
)
