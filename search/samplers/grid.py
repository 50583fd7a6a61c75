"""Grid search: every choice, every step, and evenly spread points of every range, in a fixed order."""

from collections.abc import Mapping, Sequence
from math import prod

from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial

from mergesearch.search.samplers._replayable import ReplayableSampler
from mergesearch.search.samplers._unit_cube import from_unit, levels
from mergesearch.search.samplers.branches import Branch, Point, all_dimensions

POINTS = 5
"""The number of points of a range without steps, unless the config gives one."""


class GridSampler(ReplayableSampler):
    """One branch after the other; in each, the last dimension changes first. After the last point it starts again.

    ``points``: the number of points of a range without steps.
    """

    def __init__(self, branches: Sequence[Branch], seed: int, label: str = "grid", points: int = POINTS) -> None:
        super().__init__(seed, label)
        self._branches = branches
        self._points = points

    def space(self, _study: Study) -> Mapping[str, BaseDistribution]:
        return all_dimensions(self._branches)

    def point(self, study: Study, trial: FrozenTrial) -> Point:
        number, point = self.first_free(study, self._point)
        self.claim(study, trial, number)
        return point

    def _point(self, number: int) -> Point:
        number %= grid_size(self._branches, self._points)
        branches = iter(self._branches)
        branch = next(branches)
        while number >= (size := grid_size([branch], self._points)):
            number, branch = number - size, next(branches)
        return self._point_of(branch, number)

    def _point_of(self, branch: Branch, number: int) -> Point:
        """The point with that number in the branch's grid."""
        point: Point = {}
        for name, distribution in reversed(list(branch.free.items())):
            count = _count(distribution, self._points)
            number, digit = divmod(number, count)
            point[name] = from_unit(distribution, digit / max(count - 1, 1))
        return branch.complete(point)


def grid_size(branches: Sequence[Branch], points: int = POINTS) -> int:
    """The number of points of the grid."""
    return sum(prod(_count(each, points) for each in branch.free.values()) for branch in branches)


def _count(distribution: BaseDistribution, points: int) -> int:
    return levels(distribution) or points
