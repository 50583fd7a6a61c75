"""Quasi-Monte Carlo: scrambled Sobol points (Owen 1998), which fill the space more evenly than random ones."""

from collections.abc import Mapping, Sequence

from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial

from mergesearch.search.samplers import _replayable as _base
from mergesearch.search.samplers._space import Branch, Point, all_dimensions
from mergesearch.search.samplers._unit_cube import from_unit, is_choice, levels
from mergesearch.seeds import derive


class QmcSampler(_base.PlacedSampler):
    """The n-th trial gets the n-th point over all dimensions; those that its method does not have are passed over."""

    def __init__(self, branches: Sequence[Branch], seed: int, label: str = "qmc") -> None:
        super().__init__(seed, label)
        self._dimensions = all_dimensions(branches)

    def space(self, _study: Study) -> Mapping[str, BaseDistribution]:
        return self._dimensions

    def point(self, study: Study, trial: FrozenTrial) -> Point:
        number = _base.first_free(self.taken(study))
        self.take(study, trial, number)
        units = self._sobol(number)
        return {name: _even(found, unit) for (name, found), unit in zip(self._dimensions.items(), units, strict=True)}

    def _sobol(self, number: int) -> list[float]:
        from scipy.stats import qmc

        engine = qmc.Sobol(len(self._dimensions), scramble=True, rng=derive(self.seed, "sobol"))
        if number:
            engine.fast_forward(number)
        units: list[float] = engine.random(1)[0].tolist()
        return units


def _even(distribution: BaseDistribution, unit: float) -> object:
    """The value at a coordinate; of few values each has the same share, those at the ends too."""
    count = levels(distribution)
    if count is None or (count > 1000 and not is_choice(distribution)):
        return from_unit(distribution, unit)
    return from_unit(distribution, min(int(unit * count), count - 1) / max(count - 1, 1))
