"""The dimensions of a run as its study has them: their names, what they belong to, and their values."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial

from mergesearch.search.space.paths import Hole, entry_labels, find_holes, get_at

INDEXED = re.compile(r"(.*)\[(\d+)\]")
"""The name of one of several numbers of a hole."""


@dataclass(frozen=True)
class Place:
    """What a dimension belongs to, in words; empty where that is not one thing.

    Attributes:
        hole: the hole's name.
        unit: what it is one of over depth: layer, group (of layers), knot (of a curve).
        depth: which one, from 0; -1 where there is no unit.
        module: the filter, such as ``mlp``, of tensors that it is for.
        model: the model whose parameter it is.
    """

    hole: str
    unit: str = ""
    depth: int = -1
    module: str = ""
    model: str = ""


def places_of(names: Sequence[str], recipe: Mapping[str, Any]) -> dict[str, Place]:
    """What each dimension belongs to, by its name, of a recipe with holes as the config has it."""
    holes = {hole.name: hole for hole in find_holes(recipe, "recipe")}
    return {name: _place(name, holes, recipe) for name in names}


def _place(name: str, holes: Mapping[str, Hole], recipe: Mapping[str, Any]) -> Place:
    indexed = None if name in holes else INDEXED.fullmatch(name)
    hole_name = indexed[1] if indexed else name
    hole = holes.get(hole_name)
    if hole is None:
        return Place(hole_name)
    unit, depth = (_unit(hole), int(indexed[2])) if indexed else ("", -1)
    return Place(hole_name, unit, depth, _filter(hole, recipe), _model(hole, recipe))


def _unit(hole: Hole) -> str:
    if "curve" in hole.spec:
        return "knot"
    return "layer" if hole.spec.get("layers") == "each" else "group"


def _filter(hole: Hole, recipe: Mapping[str, Any]) -> str:
    """The filter of the element that the hole is the value of; ``rest`` for the one without."""
    if not hole.inner or "value" not in hole.inner:
        return ""
    element = get_at(recipe, hole.path[: len(hole.path) - len(hole.inner) + hole.inner.index("value")])
    return str(element.get("filter", "rest"))


def _model(hole: Hole, recipe: Mapping[str, Any]) -> str:
    if hole.owner is None:
        return ""
    return entry_labels(get_at(recipe, hole.owner[:-1]))[int(hole.owner[-1])]


def distributions_of(trials: Sequence[FrozenTrial]) -> dict[str, BaseDistribution]:
    """The range or the choices of every dimension of the trials, by name, in the order of their appearance."""
    return {name: found for trial in trials for name, found in trial.distributions.items()}


def share_of(distribution: Any, value: Any) -> float:
    """Where a value lies in its dimension: from 0, the lower end or the first choice, to 1."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices.index(value) / max(1, len(distribution.choices) - 1)
    low, high = distribution.low, distribution.high
    if high <= low:
        return 0.5
    return float(log(value / low) / log(high / low) if distribution.log else (value - low) / (high - low))
