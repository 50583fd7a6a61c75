"""Sampling in fewer dimensions than the space has.

The numbered dimensions of one name, such as ``code.weight[0]``, ``code.weight[1]``, ..., lie on a curve through a few
knots, and a sampler chooses the knots. The trials' parameters stay those of the whole space, so that later samplers can
use every dimension and learn from all trials.
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

from mergesearch.search.samplers._in_branch import branch_of_best
from mergesearch.search.samplers._study_views import enqueued_point
from mergesearch.search.samplers._unit_cube import from_unit, to_unit
from mergesearch.search.samplers.branches import Branch, Point

NUMBERED = re.compile(r"(.*)\[\d+\]")


@dataclass(frozen=True)
class DimensionCurve:
    """Dimensions of one name and range, and the number of knots that stand for them."""

    names: tuple[str, ...]
    distribution: BaseDistribution
    knots: int

    @property
    def knot_names(self) -> list[str]:
        return [self.names[0]] if self.knots == 1 else [f"{self.names[0]}@{knot}" for knot in range(self.knots)]

    def spread(self, knots: Sequence[Any]) -> Point:
        """The values of the dimensions on the curve through the knots."""
        if len(self.names) == 1:
            return {self.names[0]: knots[0]}
        units = [to_unit(self.distribution, value) for value in knots]
        return {
            name: from_unit(self.distribution, _interpolate(units, index / (len(self.names) - 1)))
            for index, name in enumerate(self.names)
        }

    def fit(self, point: Mapping[str, Any]) -> list[Any]:
        """The knots of the curve nearest to the dimensions' values, by least squares in the unit cube."""
        import numpy as np

        if len(self.names) == 1:
            return [point[self.names[0]]]
        units = np.array([to_unit(self.distribution, point[name]) for name in self.names])
        depths = np.linspace(0, 1, len(self.names))
        basis = np.array([[_interpolate(row, depth) for row in np.eye(self.knots).tolist()] for depth in depths])
        knots = np.linalg.lstsq(basis, units, rcond=None)[0]
        return [from_unit(self.distribution, unit) for unit in knots.tolist()]


def _interpolate(knots: Sequence[float], depth: float) -> float:
    """The value at a depth from 0 to 1 on the line through evenly spread knots."""
    position = depth * (len(knots) - 1)
    low = min(int(position), max(len(knots) - 2, 0))
    high = min(low + 1, len(knots) - 1)
    return knots[low] + (position - low) * (knots[high] - knots[low])


def curves_of(free: Mapping[str, BaseDistribution], dimensions: int) -> list[DimensionCurve]:
    """Curves with as many knots each as fit into ``dimensions`` together, but at least one."""
    names_of: dict[tuple[str, BaseDistribution], list[str]] = {}
    for name, distribution in free.items():
        numbered = NUMBERED.fullmatch(name) if isinstance(distribution, FloatDistribution) else None
        names_of.setdefault((numbered.group(1) if numbered else name, distribution), []).append(name)
    single = sum(len(names) == 1 for names in names_of.values())
    knots = max(max(dimensions - single, 1) // max(len(names_of) - single, 1), 1)
    return [
        DimensionCurve(tuple(names), distribution, min(knots, len(names)))
        for (_, distribution), names in names_of.items()
    ]


class ReducedSampler(BaseSampler):
    """Shows a sampler the trials in the best trial's branch as points of few dimensions, and spreads what it asks."""

    def __init__(self, sampler: BaseSampler, branches: Sequence[Branch], dimensions: int) -> None:
        self._sampler = sampler
        self._branches = branches
        self._dimensions = dimensions

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._branch(study).distributions if enqueued_point(trial) is None else {}

    def sample_relative(
        self, study: Study, _trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if not search_space:
            return {}
        branch = self._branch(study)
        curves = curves_of(branch.free, self._dimensions)
        asked = self._reduced_study(study, branch, curves).ask(_knot_distributions(curves))
        point: Point = {}
        for curve in curves:
            point |= curve.spread([asked.params[name] for name in curve.knot_names])
        return branch.complete(point)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Does nothing: every trial has a sampler with a seed of its own."""

    def _branch(self, study: Study) -> Branch:
        return branch_of_best(study, self._branches)

    def _reduced_study(self, study: Study, branch: Branch, curves: Sequence[DimensionCurve]) -> Study:
        reduced = optuna.create_study(directions=study.directions, sampler=self._sampler)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
            if branch.contains(trial) and trial.values:
                reduced.add_trial(_reduced_trial(trial, curves))
        return reduced


def _reduced_trial(trial: FrozenTrial, curves: Sequence[DimensionCurve]) -> FrozenTrial:
    params: Point = {}
    for curve in curves:
        params |= dict(zip(curve.knot_names, curve.fit(trial.params), strict=True))
    return optuna.trial.create_trial(
        params=params,
        distributions=_knot_distributions(curves),
        values=trial.values,
        constraints=trial.constraints,
    )


def _knot_distributions(curves: Sequence[DimensionCurve]) -> dict[str, BaseDistribution]:
    return {name: curve.distribution for curve in curves for name in curve.knot_names}
