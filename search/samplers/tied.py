"""Sampling near a point, with one value for each group of dimensions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler
from optuna.study import Study

from mergesearch.search.samplers._unit_cube import from_unit, to_unit
from mergesearch.search.samplers.branches import Point
from mergesearch.search.study import trials as t

TOLERANCE = 1e-9
Groups = Sequence[Sequence[str]]
"""The names of the dimensions that share a value, group by group; those of a group have one distribution."""


def is_tied(point: Mapping[str, object], groups: Groups) -> bool:
    """Whether the point has the dimensions of all groups, and each group one value."""
    return all(_is_same(point.get(name), point.get(names[0])) for names in groups for name in names)


def _is_same(one: object, two: object) -> bool:
    if isinstance(one, float) and isinstance(two, float):
        return abs(one - two) <= TOLERANCE
    return one is not None and one == two


@dataclass(frozen=True)
class TiedBox:
    """The points around ``centre`` in which each group has one value, at most ``width`` (of a range) from its own.

    ``distributions`` are those of the dimensions. The others have the centre's values.
    """

    centre: Mapping[str, object]
    groups: Groups
    distributions: Mapping[str, BaseDistribution]
    width: float

    def ask(self, study: Study, learns: bool, seed: int) -> Point:
        """A point of the box: by a Gaussian process of the study's trials in it if it ``learns``, else at random.

        ``study`` has a single objective; trials that were stopped early count with their estimates.
        """
        reduced = optuna.create_study(direction=study.direction, sampler=self._sampler(learns, seed))
        box = self._box()
        for trial in t.history_of(study).finished:
            if trial.value is not None and self.contains(trial.params):
                params = {names[0]: self._unit(names[0], trial.params) for names in self.groups}
                reduced.add_trial(
                    optuna.trial.create_trial(
                        params=params, distributions=box, value=trial.value, constraints=trial.constraints
                    )
                )
        asked = reduced.ask(box)
        return dict(self.centre) | {
            name: from_unit(self.distributions[name], asked.params[names[0]]) for names in self.groups for name in names
        }

    def _sampler(self, learns: bool, seed: int) -> BaseSampler:
        if learns:
            return GPSampler(seed=seed, n_startup_trials=0, warn_independent_sampling=False)
        return RandomSampler(seed=seed)

    def _box(self) -> dict[str, BaseDistribution]:
        centres = {names[0]: self._unit(names[0], self.centre) for names in self.groups}
        return {
            name: FloatDistribution(max(unit - self.width, 0.0), min(unit + self.width, 1.0))
            for name, unit in centres.items()
        }

    def contains(self, point: Mapping[str, object]) -> bool:
        """Whether the point is in the box."""
        tied = {name for names in self.groups for name in names}
        others = (_is_same(point.get(name), value) for name, value in self.centre.items() if name not in tied)
        return (
            is_tied(point, self.groups)
            and all(others)
            and all(each._contains(self._unit(name, point)) for name, each in self._box().items())
        )

    def _unit(self, name: str, point: Mapping[str, object]) -> float:
        return to_unit(self.distributions[name], point[name])
