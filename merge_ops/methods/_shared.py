"""Parameters and decisions that several methods share."""

from math import prod

from mergesearch.merge_ops.kernels.plans import SMALLEST_NORM, SMALLEST_SUM, Sparsity, Vote, rounded
from mergesearch.merge_ops.methods._base import TABLE_SIZE, Parameter, Quantiles, Scalar, Statistics, Values

WEIGHT = Parameter("weight", "the model's share", per_model=True, search=(0.0, 1.5))
DENSITY = Parameter(
    "density",
    "the part of the task vector that is kept",
    default=1.0,
    per_model=True,
    low=0.0,
    high=1.0,
    search=(0.1, 1.0),
)
LAMBDA = Parameter("lambda", "a factor on the sum of task vectors", default=1.0, search=(0.3, 1.5))
SIGN = Parameter(
    "sign",
    "each element's sign is elected by the models' weighted mass, or by their count",
    kind="choice",
    default="mass",
    choices=("mass", "count"),
)
SCOPE = Parameter(
    "scope",
    "the density is met in each tensor, or over the whole model (as in the paper's code)",
    kind="choice",
    default="tensor",
    choices=("tensor", "global"),
)
SEED = Parameter("seed", "of the random masks", kind="integer", default=0, low=0, high=2**53)
CALIBRATION = Parameter("calibration", "a text file that the models run over, like what they are for", kind="file")
CALIBRATION_TOKENS = Parameter(
    "calibration_tokens", "how much of the text, from its beginning", kind="integer", default=8192, low=2, high=2**40
)
INT8_MASK = Parameter("int8_mask", "accepted for mergekit's sake; changes nothing", kind="switch", default=False)


def normalize(default: bool) -> Parameter:
    return Parameter(
        "normalize",
        "divide by the sum of the weights",
        kind="switch",
        default=default,
        search=(False, True),
    )


def divided(weights: tuple[float, ...], normalized: bool) -> tuple[float, ...]:
    """The weights over their sum; as they are where that is zero, for there is nothing to divide by."""
    total = sum(weights)
    if not normalized or abs(total) <= SMALLEST_SUM:
        return weights
    return tuple(weight / total for weight in weights)


def rescale(default: str) -> Parameter:
    """``true`` is read as mergekit's meaning of the day: the paper's for random drops, L1 for trimming."""
    return Parameter(
        "rescale",
        "make up for what was dropped: inverse (1/density), l1 (same L1 norm) or none",
        kind="choice",
        default=default,
        choices=("inverse", "l1", "none", True, False),
    )


def quantiles(statistics: Statistics, model: int, scope: Scalar) -> Quantiles:
    return statistics.magnitudes(model) if scope == "tensor" else statistics.model_magnitudes(model)


def trim(statistics: Statistics, model: int, density: float, rescaled: Scalar, scope: Scalar = "tensor") -> Sparsity:
    """Keeps the ``max(1, ⌊density·n⌋)`` largest magnitudes of a task vector (the trimming of TIES).

    Elements as large as the smallest kept one are kept too, so that the result does not depend on their order.
    """
    if density >= 1:
        return Sparsity()
    if density <= 0 or statistics.size == 0:
        return Sparsity(threshold=float("inf"))
    magnitudes = quantiles(statistics, model, scope)
    threshold = magnitudes.largest(max(1, int(density * magnitudes.size)))
    return Sparsity(threshold=threshold, scale=_trim_scale(magnitudes, threshold, density, rescaled))


def _trim_scale(magnitudes: Quantiles, threshold: float, density: float, rescaled: Scalar) -> float:
    if rescaled == "inverse":
        return 1 / density
    return matched(magnitudes.total, magnitudes.sum_from(threshold)) if rescaled in ("l1", True) else 1.0


def matched(before: float, after: float) -> float:
    """The factor that brings an L1 norm back; 1 where there is none."""
    return before / after if min(before, after) > SMALLEST_NORM else 1.0


def drop(density: float, key: int, rescaled: Scalar) -> Sparsity:
    """Keeps each element with probability ``density`` (DARE); the factor is one over the real one."""
    if density >= 1:
        return Sparsity()
    if density <= 0:
        return Sparsity(threshold=float("inf"))
    inverse = rescaled in ("inverse", True)
    return Sparsity(keep=density, key=key, scale=1 / rounded(density) if inverse else 1.0, match_l1=rescaled == "l1")


def drops(values: Values) -> tuple[Sparsity, ...]:
    """``drop`` for every model of a candidate."""
    rescaled = values.shared["rescale"]
    return tuple(
        drop(density, key, rescaled)
        for density, key in zip(values.numbers("density"), values.random_keys(), strict=True)
    )


def vote(values: Values) -> Vote:
    """How the sign is elected, from the parameter ``sign``."""
    return "count" if values.text("sign") == "count" else "mass"


def quantile_tables(shape: tuple[int, ...], models: int) -> int:
    """Bytes of every model's sorted magnitudes: rank, magnitude and sum."""
    return models * min(prod(shape), TABLE_SIZE) * (8 + 4 + 8)
