"""Quasi-Monte Carlo search: scrambled Sobol points (Owen 1998), which cover the space more evenly than random ones."""

from collections.abc import Mapping, Sequence

from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial

from mergesearch.search.samplers._replayable import ReplayableSampler
from mergesearch.search.samplers._unit_cube import from_unit, is_continuous, levels
from mergesearch.search.samplers.branches import Branch, Point, all_dimensions
from mergesearch.seeds import derive


class QmcSampler(ReplayableSampler):
    """The n-th trial gets the n-th Sobol point over all dimensions; it ignores those that its method does not have."""

    def __init__(self, branches: Sequence[Branch], seed: int, label: str = "qmc") -> None:
        super().__init__(seed, label)
        self._dimensions = all_dimensions(branches)

    def space(self, _study: Study) -> Mapping[str, BaseDistribution]:
        return self._dimensions

    def point(self, study: Study, trial: FrozenTrial) -> Point:
        number, point = self.first_free(study, self._point)
        self.claim(study, trial, number)
        return point

    def _point(self, number: int) -> Point:
        units = self._sobol(number)
        return {
            name: _value(distribution, unit)
            for (name, distribution), unit in zip(self._dimensions.items(), units, strict=True)
        }

    def _sobol(self, number: int) -> list[float]:
        from scipy.stats import qmc

        engine = qmc.Sobol(len(self._dimensions), scramble=True, rng=derive(self.seed, "sobol"))
        if number:
            engine.fast_forward(number)
        units: list[float] = engine.random(1)[0].tolist()
        return units


def _value(distribution: BaseDistribution, unit: float) -> object:
    """The value at a coordinate. Where there are few values, each has the same share of the unit interval."""
    if is_continuous(distribution):
        return from_unit(distribution, unit)
    count = levels(distribution) or 1
    return from_unit(distribution, min(int(unit * count), count - 1) / max(count - 1, 1))
