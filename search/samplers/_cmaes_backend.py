"""One interface to the optimizers of the ``cmaes`` package: points out, the ranks of candidates in.

Candidates are named by seeds: a candidate is drawn from its generation's state with a seed of its own, and drawn again
with the same seed when the generation is told.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor, log
from typing import Any, Protocol

import numpy as np
from optuna.distributions import BaseDistribution

from mergesearch.search.samplers._unit_cube import from_unit, is_choice, is_continuous, levels, to_unit
from mergesearch.search.samplers.branches import Point
from mergesearch.search.statistics import Array

SEPARABLE_FROM = 50
"""From this many dimensions on the covariance is diagonal (Ros and Hansen 2008): a run is too short for a full one."""
RESAMPLED = 10
"""How often a candidate outside of the bounds is drawn again before it is moved to them."""


@dataclass(frozen=True)
class EvolutionStart:
    """Where an evolution starts.

    Attributes:
        mean: the value of each dimension.
        sigma: the standard deviation, as a fraction of each dimension's range.
        scales: for some dimensions, a factor on sigma.
        population: the number of candidates of a generation.
    """

    mean: Mapping[str, Any]
    sigma: float
    scales: Mapping[str, float]
    population: int


def usual_population(dimensions: int) -> int:
    """``4 + ⌊3 ln n⌋`` (Hansen, arXiv:1604.00772, equation 48)."""
    return 4 + floor(3 * log(max(dimensions, 1)))


class Evolution(Protocol):
    """One evolution, from its start until it stops."""

    def candidate(self, seed: int) -> Point:
        """The candidate of the current generation with this seed."""
        ...

    def tell(self, seeds: Sequence[int], costs: Sequence[float]) -> None:
        """Ends the generation: the seeds of its candidates and their costs, the best first."""
        ...

    def is_over(self) -> bool:
        """Whether a stopping criterion of the package is met."""
        ...

    def centre(self) -> Point:
        """The mean of the distribution; of a choice, the most probable value."""
        ...


def evolve(free: Mapping[str, BaseDistribution], start: EvolutionStart, mixed: bool = False) -> Evolution:
    """CMA-ES where all dimensions are continuous (with a diagonal covariance where they are many), else CatCMAwM.

    ``mixed``: CatCMAwM in any case.
    """
    if not mixed and all(map(is_continuous, free.values())):
        return _ContinuousEvolution(free, start)
    return _MixedEvolution(free, start)


class _ContinuousEvolution:
    """CMA-ES (Hansen, arXiv:1604.00772) or sep-CMA-ES, in coordinates in which every scale is 1."""

    def __init__(self, free: Mapping[str, BaseDistribution], start: EvolutionStart) -> None:
        import cmaes

        self._free = free
        self._scales = np.array([start.scales.get(name, 1.0) for name in free])
        mean = np.array([to_unit(distribution, start.mean[name]) for name, distribution in free.items()])
        optimizer = cmaes.CMA if len(free) < SEPARABLE_FROM else cmaes.SepCMA
        ends = 1 / self._scales
        self._optimizer = optimizer(
            mean=np.clip(mean / self._scales, 0, ends),
            sigma=start.sigma,
            bounds=np.stack([np.zeros(len(free)), ends], axis=1),
            n_max_resampling=RESAMPLED,
            population_size=start.population,
        )

    def candidate(self, seed: int) -> Point:
        return _point_of(self._free, self._draw(seed) * self._scales)

    def _draw(self, seed: int) -> Array:
        self._optimizer.reseed_rng(seed)
        drawn: Array = self._optimizer.ask()
        return drawn

    def tell(self, seeds: Sequence[int], costs: Sequence[float]) -> None:
        self._optimizer.tell([(self._draw(seed), cost) for seed, cost in zip(seeds, costs, strict=True)])

    def is_over(self) -> bool:
        return bool(self._optimizer.should_stop())

    def centre(self) -> Point:
        return _point_of(self._free, self._optimizer.mean * self._scales)


class _MixedEvolution:
    """CatCMA with margin (Hamano et al., arXiv:2504.07884), for ranges, steps and choices together."""

    def __init__(self, free: Mapping[str, BaseDistribution], start: EvolutionStart) -> None:
        import cmaes

        ranges = {name: each for name, each in free.items() if is_continuous(each)}
        steps = {name: each for name, each in free.items() if not is_continuous(each) and not is_choice(each)}
        self._numbers = {**ranges, **steps}
        self._choices = {name: each for name, each in free.items() if is_choice(each)}
        scales = np.array([start.scales.get(name, 1.0) for name in self._numbers])
        mean = np.array([to_unit(each, start.mean[name]) for name, each in self._numbers.items()])
        self._optimizer = cmaes.CatCMAwM(
            x_space=[[0.0, 1.0]] * len(ranges) or None,
            z_space=[np.linspace(0, 1, levels(each) or 2).tolist() for each in steps.values()] or None,
            c_space=[levels(each) for each in self._choices.values()] or None,
            population_size=start.population,
            mean=mean if self._numbers else None,
            sigma=start.sigma,
            cov=np.diag(scales**2) if self._numbers else None,
            cat_param=_start_probabilities(self._choices, start.mean),
        )

    def candidate(self, seed: int) -> Point:
        drawn = self._draw(seed)
        numbers = np.concatenate([part for part in (drawn.x, drawn.z) if part is not None] or [np.zeros(0)])
        return self._point(numbers, drawn.c if drawn.c is not None else [])

    def centre(self) -> Point:
        # The package has no public names for these.
        numbers = self._optimizer._mean if self._numbers else np.zeros(0)
        return self._point(numbers, self._optimizer._q if self._choices else [])

    def _point(self, numbers: Array, rows: Sequence[Array] | Array) -> Point:
        """``rows``: for each choice, a number for each value, the largest for the value that is chosen."""
        chosen = {
            name: distribution.to_external_repr(int(np.argmax(row)))
            for (name, distribution), row in zip(self._choices.items(), rows, strict=True)
        }
        return _point_of(self._numbers, numbers) | chosen

    def _draw(self, seed: int) -> Any:
        self._optimizer.reseed_rng(seed)
        return self._optimizer.ask()

    def tell(self, seeds: Sequence[int], _costs: Sequence[float]) -> None:
        # Ranks instead of costs: the package uses the spread of the costs as a scale, which is 0 for equal ones.
        self._optimizer.tell([(self._draw(seed), float(rank)) for rank, seed in enumerate(seeds)])

    def is_over(self) -> bool:
        return bool(self._numbers) and bool(self._optimizer.should_stop())


def _point_of(distributions: Mapping[str, BaseDistribution], units: Array) -> Point:
    return {
        name: from_unit(distribution, unit)
        for (name, distribution), unit in zip(distributions.items(), units, strict=True)
    }


def _start_probabilities(choices: Mapping[str, BaseDistribution], mean: Mapping[str, Any]) -> Any:
    """[choices, levels]: one half for the start's own value, and the other half shared by all values alike."""
    if not choices:
        return None
    widest = max(levels(distribution) or 0 for distribution in choices.values())
    rows = np.zeros((len(choices), widest))
    for row, (name, distribution) in zip(rows, choices.items(), strict=True):
        count = levels(distribution) or 0
        row[:count] = 0.5 / count
        row[int(distribution.to_internal_repr(mean[name]))] += 0.5
    return rows
