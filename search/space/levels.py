"""Levels of a space, from coarse to fine: which dimensions share one value.

The holes of the space say which levels there are. Of the numbers that weigh the models (``weight``; else ``t``,
``alpha`` or ``lambda``), the first level has one value for all, the second one value a model, and the third one value a
hole, such as a filter, a module or a slice, and if that is coarse enough, one for each half of its layers. After the
levels comes the space itself, with a value for every dimension. All other dimensions keep their values.
"""

import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from optuna.distributions import FloatDistribution

from mergesearch.merge_ops.methods import Method
from mergesearch.search.space.dimension import Dimension
from mergesearch.search.space.space import Space

WEIGHING = ("weight", "t", "alpha", "lambda")
"""The first of these parameters that a method's dimensions have is tied."""
NUMBERED = re.compile(r"(?P<hole>.*)\[(?P<index>\d+)\]")
"""The name of one of several dimensions over depth."""
SINGLE, BY_MODEL, BY_PART = "one value for all", "one value a model", "groups of layers and modules"
NAMES = (SINGLE, BY_MODEL, BY_PART)
Key = Callable[[Dimension], Hashable]


@dataclass(frozen=True)
class Level:
    """One level: its name, and the names of the dimensions that share a value, group by group."""

    name: str
    groups: tuple[tuple[str, ...], ...]


def levels_of(space: Space, method: Method) -> list[Level]:
    """The levels of a method, the coarsest first; none where there is nothing to tie.

    A level that is no finer than the one before, or more than half as fine as the space, is left out. Shares of a sum,
    and weights with different ranges, have no single value for all.
    """
    dimensions = _weighing(space.dimensions_of(method))
    counts = Counter(_hole(each) for each in dimensions)

    def of_models(dimension: Dimension) -> Hashable:
        models = space.models_of(dimension)
        return models, dimension.distribution, _hole(dimension) if len(models) > 1 else ""

    def half(dimension: Dimension) -> Hashable:
        return _hole(dimension), 2 * _index(dimension) // counts[_hole(dimension)]

    can_share = all(len(space.models_of(each)) <= 1 for each in dimensions)
    has_one_range = len({each.distribution for each in dimensions}) == 1
    keys_of: dict[str, list[Key]] = {SINGLE: [_same]} if can_share and has_one_range else {}
    keys_of |= {BY_MODEL: [of_models], BY_PART: [half, _hole]}
    levels: list[Level] = []
    for name, keys in keys_of.items():
        finest = next((groups for key in keys if 2 * len(groups := _groups(dimensions, key)) <= len(dimensions)), ())
        if len(finest) > (len(levels[-1].groups) if levels else 0):
            levels.append(Level(name, finest))
    return levels


def _weighing(dimensions: Sequence[Dimension]) -> list[Dimension]:
    """The dimensions of the parameter that weighs the models."""
    numbers = [
        each
        for each in dimensions
        if isinstance(each.distribution, FloatDistribution) and not each.distribution.single()
    ]
    parameter = next((name for name in WEIGHING if any(each.parameter == name for each in numbers)), None)
    return [each for each in numbers if parameter and each.parameter == parameter]


def _same(_: Dimension) -> Hashable:
    return ()


def _hole(dimension: Dimension) -> str:
    numbered = NUMBERED.fullmatch(dimension.name)
    return numbered["hole"] if numbered else dimension.name


def _index(dimension: Dimension) -> int:
    numbered = NUMBERED.fullmatch(dimension.name)
    return int(numbered["index"]) if numbered else 0


def _groups(dimensions: Sequence[Dimension], key: Key) -> tuple[tuple[str, ...], ...]:
    groups: dict[Hashable, list[str]] = {}
    for dimension in dimensions:
        groups.setdefault(key(dimension), []).append(dimension.name)
    return tuple(map(tuple, groups.values()))
