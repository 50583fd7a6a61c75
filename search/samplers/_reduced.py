"""Fewer dimensions than the space has: the numbered ones of one name lie on a curve through a few knots.

The trials' parameters stay those of the whole space, so that what follows can free every dimension and learn from all.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from mergesearch.search.samplers import _replayable as _base
from mergesearch.search.samplers._space import Branch, Point
from mergesearch.search.samplers._unit_cube import from_unit, to_unit
from mergesearch.search.study import trials as t

NUMBERED = re.compile(r"(.*)\[\d+\]")


@dataclass(frozen=True)
class _Group:
    """Dimensions of one name and range, and how many knots stand for them."""

    names: tuple[str, ...]
    distribution: BaseDistribution
    knots: int

    @property
    def knot_names(self) -> list[str]:
        return [self.names[0]] if self.knots == 1 else [f"{self.names[0]}@{knot}" for knot in range(self.knots)]

    def lifted(self, values: Sequence[Any]) -> Point:
        """The dimensions' values on the curve through the knots."""
        if len(self.names) == 1:
            return {self.names[0]: values[0]}
        units = [to_unit(self.distribution, value) for value in values]
        return {
            name: from_unit(self.distribution, _between(units, place / (len(self.names) - 1)))
            for place, name in enumerate(self.names)
        }

    def projected(self, point: Mapping[str, Any]) -> list[Any]:
        """The knots of the curve that is nearest to these values, by least squares."""
        import numpy as np

        if len(self.names) == 1:
            return [point[self.names[0]]]
        wanted = np.array([to_unit(self.distribution, point[name]) for name in self.names])
        places = np.linspace(0, 1, len(self.names))
        hats = np.array([[_between(row, place) for row in np.eye(self.knots).tolist()] for place in places])
        units = np.linalg.lstsq(hats, wanted, rcond=None)[0]
        return [from_unit(self.distribution, unit) for unit in units.tolist()]


def _between(knots: Sequence[float], depth: float) -> float:
    position = depth * (len(knots) - 1)
    low = min(int(position), max(len(knots) - 2, 0))
    high = min(low + 1, len(knots) - 1)
    return knots[low] + (position - low) * (knots[high] - knots[low])


def groups_of(free: Mapping[str, BaseDistribution], dimensions: int) -> list[_Group]:
    """Groups with as many knots each as ``dimensions`` has room for, one at least."""
    members: dict[tuple[str, BaseDistribution], list[str]] = {}
    for name, distribution in free.items():
        numbered = NUMBERED.fullmatch(name) if isinstance(distribution, FloatDistribution) else None
        members.setdefault((numbered.group(1) if numbered else name, distribution), []).append(name)
    spare = max(dimensions - sum(len(names) == 1 for names in members.values()), 1)
    many = sum(len(names) > 1 for names in members.values())
    knots = max(spare // max(many, 1), 1)
    return [_Group(tuple(names), key[1], min(knots, len(names))) for key, names in members.items()]


class TiedSampler(BaseSampler):
    """Shows ``sampler`` the trials of the best one's branch as points of the few dimensions, and lifts what it asks."""

    def __init__(self, sampler: BaseSampler, branches: Sequence[Branch], dimensions: int) -> None:
        self._sampler = sampler
        self._branches = branches
        self._dimensions = dimensions

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {} if _base.is_given(trial) else self._branch(study).distributions

    def sample_relative(
        self, study: Study, _trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if not search_space:
            return {}
        branch = self._branch(study)
        groups = groups_of(branch.free, self._dimensions)
        asked = self._shadow(study, branch, groups).ask(
            {name: group.distribution for group in groups for name in group.knot_names}
        )
        point: Point = {}
        for group in groups:
            point |= group.lifted([asked.params[name] for name in group.knot_names])
        return branch.whole(point)

    def _branch(self, study: Study) -> Branch:
        sign = -1 if study.directions == [optuna.study.StudyDirection.MINIMIZE] else 1
        ranked = sorted(
            t.completed(study), key=lambda trial: (t.violation(trial), -sign * t.score_of(trial), trial.number)
        )
        inside = (branch for trial in ranked for branch in self._branches if branch.holds(trial))
        return next(inside, self._branches[0])

    def _shadow(self, study: Study, branch: Branch, groups: Sequence[_Group]) -> Study:
        shadow = optuna.create_study(directions=study.directions, sampler=self._sampler)
        states = (TrialState.COMPLETE, TrialState.PRUNED)
        for trial in study.get_trials(deepcopy=False, states=states):
            if branch.holds(trial) and trial.values:
                shadow.add_trial(_shown(trial, groups))
        return shadow

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Nothing: seeds come from the run's."""


def _shown(trial: FrozenTrial, groups: Sequence[_Group]) -> FrozenTrial:
    params: Point = {}
    for group in groups:
        params |= dict(zip(group.knot_names, group.projected(trial.params), strict=True))
    distributions = {name: group.distribution for group in groups for name in group.knot_names}
    return optuna.trial.create_trial(
        params=params, distributions=distributions, values=trial.values, constraints=trial.constraints
    )
