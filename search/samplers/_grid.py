"""The grid: every choice, every step, and evenly spread points of every range, in a fixed order."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import prod

from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial

from mergesearch.search.samplers import _replayable as _base
from mergesearch.search.samplers._space import Branch, Point, all_dimensions
from mergesearch.search.samplers._unit_cube import from_unit, levels

POINTS = 5
"""Points of a range that has no steps, unless the config says otherwise."""


class GridSampler(_base.PlacedSampler):
    """Method after method; of each the last dimension changes first. Asked for more than there is, it begins again."""

    def __init__(self, branches: Sequence[Branch], seed: int, label: str = "grid", points: int = POINTS) -> None:
        super().__init__(seed, label)
        self._branches = branches
        self._points = points

    def space(self, _study: Study) -> Mapping[str, BaseDistribution]:
        return all_dimensions(self._branches)

    def point(self, study: Study, trial: FrozenTrial) -> Point:
        number = _base.first_free(self.taken(study))
        self.take(study, trial, number)
        return self._at(number % grid_size(self._branches, self._points))

    def _at(self, number: int) -> Point:
        ends = list(accumulate(_size(branch, self._points) for branch in self._branches))
        place = next(place for place, end in enumerate(ends) if number < end)
        branch, rest = self._branches[place], number - (ends[place - 1] if place else 0)
        point: Point = {}
        for name, distribution in reversed(list(branch.free.items())):
            count = _count(distribution, self._points)
            rest, digit = divmod(rest, count)
            point[name] = from_unit(distribution, digit / max(count - 1, 1))
        return branch.whole(point)


def grid_size(branches: Sequence[Branch], points: int = POINTS) -> int:
    """How many points the grid has."""
    return sum(_size(branch, points) for branch in branches)


def _size(branch: Branch, points: int) -> int:
    return prod(_count(distribution, points) for distribution in branch.free.values())


def _count(distribution: BaseDistribution, points: int) -> int:
    return levels(distribution) or points
