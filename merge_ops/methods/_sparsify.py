"""Sparsification of task vectors: functions from statistics and parameters to the ``Sparsity`` of each model."""

from math import inf, nextafter, prod

from mergesearch.merge_ops.kernels.plans import SMALLEST_NORM, Sparsity, rounded
from mergesearch.merge_ops.methods._base import Parameter, ParameterValues, Quantiles, Scalar, Statistics

NOTHING = Sparsity(threshold=inf)
"""Drops every element."""
DENSITY = Parameter(
    "density",
    "the fraction of the task vector that is kept",
    default=1.0,
    per_model=True,
    low=0.0,
    high=1.0,
    search=(0.1, 1.0),
)
GAMMA = Parameter(
    "gamma",
    "the fraction of the task vector that is dropped as outliers",
    default=0.01,
    per_model=True,
    low=0.0,
    high=1.0,
    search=(0.0, 0.1),
)
EPSILON = Parameter(
    "epsilon",
    "half the range of the probabilities around the density",
    default=0.15,
    per_model=True,
    low=0.0,
    high=1.0,
    search=(0.05, 0.2),
)
SCOPE = Parameter(
    "scope",
    "the density holds for each tensor, or for the whole model as in the paper's code",
    kind="choice",
    default="tensor",
    choices=("tensor", "global"),
)
SEED = Parameter("seed", "the seed of the random masks", kind="integer", default=0, low=0, high=2**53)


def rescale(default: str) -> Parameter:
    """Declares ``rescale`` with the method's own default.

    Recipes of old mergekit versions have ``true`` or ``false``. ``true`` means ``inverse`` for random drops and ``l1``
    for trimming.
    """
    return Parameter(
        "rescale",
        "compensate for dropped elements: inverse (1/density), l1 (same L1 norm) or none",
        kind="choice",
        default=default,
        choices=("inverse", "l1", "none", True, False),
    )


def trimmed(statistics: Statistics, values: ParameterValues) -> tuple[Sparsity, ...]:
    """Keeps the largest magnitudes of each task vector (TIES)."""
    return _trim_all(statistics, values, (0.0,) * statistics.count)


def without_extremes(statistics: Statistics, values: ParameterValues) -> tuple[Sparsity, ...]:
    """Drops the largest and the smallest magnitudes of each task vector (Model Breadcrumbs)."""
    return _trim_all(statistics, values, values.numbers("gamma"))


def _trim_all(statistics: Statistics, values: ParameterValues, gammas: tuple[float, ...]) -> tuple[Sparsity, ...]:
    fractions = zip(values.numbers("density"), gammas, strict=True)
    return tuple(_trim(statistics, model, density, gamma, values) for model, (density, gamma) in enumerate(fractions))


def _trim(statistics: Statistics, model: int, density: float, gamma: float, values: ParameterValues) -> Sparsity:
    """Drops the ``⌊gamma·n⌋`` largest magnitudes and keeps the next ``max(1, ⌊density·n⌋)``.

    If that is more than there are, fewer outliers are dropped. Magnitudes equal to the smallest kept one are kept too,
    so that the result does not depend on the order of elements.
    """
    if density >= 1:
        return Sparsity()
    if density <= 0 or statistics.size == 0:
        return NOTHING
    in_tensor = values.text("scope") == "tensor"
    magnitudes = statistics.magnitudes(model) if in_tensor else statistics.model_magnitudes(model)
    kept = max(1, int(density * magnitudes.size))
    outliers = min(int(gamma * magnitudes.size), magnitudes.size - kept)
    threshold, *first = magnitudes.largest_of([outliers + kept, *([outliers + 1] if outliers else [])])
    ceiling = first[0] if outliers else inf
    scale = _trim_scale(magnitudes, threshold, ceiling, density, values.shared["rescale"])
    return Sparsity(threshold, ceiling, scale=scale)


def _trim_scale(magnitudes: Quantiles, threshold: float, ceiling: float, density: float, mode: Scalar) -> float:
    if mode == "inverse":
        return 1 / density
    if mode not in ("l1", True):
        return 1.0
    outliers = magnitudes.sum_from(nextafter(ceiling, inf)) if ceiling < inf else 0.0
    remaining = magnitudes.sum_from(threshold) - outliers
    return magnitudes.total / remaining if min(magnitudes.total, remaining) > SMALLEST_NORM else 1.0


def dropped(_: Statistics, values: ParameterValues) -> tuple[Sparsity, ...]:
    """Keeps each element with probability ``density`` (DARE)."""
    mode = values.shared["rescale"]
    drops = zip(values.numbers("density"), values.mask_keys(), strict=True)
    return tuple(_drop(density, key, mode) for density, key in drops)


def _drop(density: float, key: int, mode: Scalar) -> Sparsity:
    """The scale is one over the probability that the mask really has."""
    if density >= 1:
        return Sparsity()
    if density <= 0:
        return NOTHING
    inverse = mode in ("inverse", True)
    return Sparsity(keep=density, key=key, scale=1 / rounded(density) if inverse else 1.0, match_l1=mode == "l1")


def dropped_by_rank(statistics: Statistics, values: ParameterValues) -> tuple[Sparsity, ...]:
    """Keeps each element with a probability that grows with the rank of its magnitude in its row (DELLA)."""
    from mergesearch.merge_ops.methods._ranked import ranked_drop

    mode = values.shared["rescale"]
    drops = zip(values.numbers("density"), values.numbers("epsilon"), values.mask_keys(), strict=True)
    return tuple(ranked_drop(statistics, model, numbers, mode) for model, numbers in enumerate(drops))


def ranking_bytes(shape: tuple[int, ...], models: int) -> int:
    """The counts of every model's magnitudes."""
    from mergesearch.merge_ops.kernels.ranking import table_bytes

    return models * table_bytes(prod(shape))


def rank_bytes(shape: tuple[int, ...], models: int) -> int:
    """The rank of every element of every model in its row."""
    return 2 * models * prod(shape)
