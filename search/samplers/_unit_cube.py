"""Dimensions as coordinates from 0 to 1: logarithmic for log ranges, evenly spread for steps and choices."""

from collections.abc import Sequence
from math import log
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from mergesearch.search.space.dimension import Range, round_to_step
from mergesearch.search.statistics import Array

FINE = 1000
"""A number with more steps than this is treated as continuous, and rounded."""


def levels(distribution: BaseDistribution) -> int | None:
    """The number of values of a dimension; None for a range without steps."""
    match distribution:
        case CategoricalDistribution(choices=choices):
            return len(choices)
        case IntDistribution(low=low, high=high, step=step):
            return (high - low) // step + 1
        case FloatDistribution(low=low, high=high, step=step):
            return None if step is None else round((high - low) / step) + 1
    raise TypeError(f"unknown distribution {distribution}")


def is_choice(distribution: BaseDistribution) -> bool:
    """Whether a dimension is categorical."""
    return isinstance(distribution, CategoricalDistribution)


def is_continuous(distribution: BaseDistribution) -> bool:
    """Whether a dimension is a number without steps, or with very many."""
    count = levels(distribution)
    return not is_choice(distribution) and (count is None or count > FINE)


def to_unit(distribution: BaseDistribution, value: Any) -> float:
    """The coordinate of a value; for a choice, that of its index."""
    return float(to_units(distribution, [value])[0])


def to_units(distribution: BaseDistribution, values: Sequence[Any]) -> Array:
    """[values]: their coordinates; see ``to_unit``."""
    if isinstance(distribution, CategoricalDistribution):
        indices = np.array([distribution.to_internal_repr(value) for value in values], dtype=float)
        return _fractions(indices, 0, len(distribution.choices) - 1)
    assert isinstance(distribution, Range)
    low, high = float(distribution.low), float(distribution.high)
    if distribution.log:
        return _fractions(np.array([log(value) for value in values], dtype=float), log(low), log(high))
    return _fractions(np.array(values, dtype=float), low, high)


def from_unit(distribution: BaseDistribution, unit: float) -> Any:
    """The value nearest to a coordinate; a coordinate outside of 0 to 1 is moved to the nearer end."""
    unit = min(max(float(unit), 0.0), 1.0)
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[round(unit * (len(distribution.choices) - 1))]
    assert isinstance(distribution, Range)
    low, high = distribution.low, distribution.high
    value = low ** (1 - unit) * high**unit if distribution.log else low + unit * (high - low)
    return round_to_step(distribution, value)


def _fractions(values: Array, low: float, high: float) -> Array:
    return (values - low) / (high - low) if high > low else np.zeros(len(values))
