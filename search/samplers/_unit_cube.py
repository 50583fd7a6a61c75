"""Dimensions as coordinates from 0 to 1, the same scale for all: logarithms for log ranges, evenly spread for steps."""

from math import log
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

Numeric = FloatDistribution | IntDistribution


def levels(distribution: BaseDistribution) -> int | None:
    """How many values there are; None for a range without steps."""
    match distribution:
        case CategoricalDistribution(choices=choices):
            return len(choices)
        case IntDistribution(low=low, high=high, step=step):
            return (high - low) // step + 1
        case FloatDistribution(low=low, high=high, step=step):
            return None if step is None else round((high - low) / step) + 1
    raise TypeError(f"unknown distribution {distribution}")


def is_choice(distribution: BaseDistribution) -> bool:
    return isinstance(distribution, CategoricalDistribution)


def to_unit(distribution: BaseDistribution, value: Any) -> float:
    """The coordinate of a value; of a choice, its place among the choices."""
    if isinstance(distribution, CategoricalDistribution):
        return _share(distribution.to_internal_repr(value), 0, len(distribution.choices) - 1)
    assert isinstance(distribution, Numeric)
    low, high = float(distribution.low), float(distribution.high)
    return _share(log(value), log(low), log(high)) if distribution.log else _share(float(value), low, high)


def from_unit(distribution: BaseDistribution, unit: float) -> Any:
    """The value nearest to a coordinate; coordinates beyond 0 and 1 are those of the ends."""
    unit = min(max(float(unit), 0.0), 1.0)
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[round(unit * (len(distribution.choices) - 1))]
    assert isinstance(distribution, Numeric)
    low, high = distribution.low, distribution.high
    value = low ** (1 - unit) * high**unit if distribution.log else low + unit * (high - low)
    return _on_step(distribution, value)


def _on_step(distribution: Numeric, value: float) -> float | int:
    low, high, step = distribution.low, distribution.high, distribution.step
    if step is not None:
        value = low + round((value - low) / step) * step
    value = min(max(value, low), high)
    return int(value) if isinstance(distribution, IntDistribution) else float(value)


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.0
