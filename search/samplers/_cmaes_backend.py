"""The optimizers of the ``cmaes`` package behind one face: candidates in from 0 to 1, costs told by place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor, log
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution

from mergesearch.search.samplers._space import Point
from mergesearch.search.samplers._unit_cube import from_unit, is_choice, levels, to_unit

SEPARABLE_FROM = 50
"""Dimensions from which the covariance is kept diagonal (Ros and Hansen 2008): a full one has no time to be learned."""
RESAMPLED = 10
"""How often a candidate outside the bounds is drawn again before it is moved to them."""
FINE = 1000
"""Steps from which a dimension is taken for continuous, and rounded."""
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Start:
    """Where an evolution begins: the mean, and the standard deviation of each dimension as a part of its range."""

    mean: Mapping[str, Any]
    sigma: float
    scales: Mapping[str, float]
    population: int


def usual_population(dimensions: int) -> int:
    """``4 + ⌊3 ln n⌋`` (Hansen, arXiv:1604.00772, equation 48)."""
    return 4 + floor(3 * log(max(dimensions, 1)))


class Evolution(Protocol):
    """One evolution, from its start to its stop."""

    def candidate(self, seed: int) -> Point:
        """The candidate that the present generation has for this seed."""
        ...

    def tell(self, seeds: Sequence[int], costs: Sequence[float]) -> None:
        """Ends the generation: the seeds of its candidates and what they cost, the best first."""
        ...

    def is_over(self) -> bool:
        """Whether one of the package's criteria says that nothing more is to be had."""
        ...


def evolve(free: Mapping[str, BaseDistribution], start: Start) -> Evolution:
    """CMA-ES where all dimensions are continuous (with a diagonal covariance where they are many), else CatCMAwM."""
    if all(_is_continuous(found) for found in free.values()):
        return _Continuous(free, start)
    return _Mixed(free, start)


def _is_continuous(distribution: BaseDistribution) -> bool:
    count = levels(distribution)
    return not is_choice(distribution) and (count is None or count > FINE)


class _Continuous:
    """CMA-ES (Hansen, arXiv:1604.00772), or sep-CMA-ES, in coordinates in which all scales are one."""

    def __init__(self, free: Mapping[str, BaseDistribution], start: Start) -> None:
        import cmaes

        self._free = free
        self._scales = np.array([start.scales.get(name, 1.0) for name in free])
        mean = np.array([to_unit(found, start.mean[name]) for name, found in free.items()])
        kind, ends = cmaes.CMA if len(free) < SEPARABLE_FROM else cmaes.SepCMA, 1 / self._scales
        self._optimizer = kind(
            mean=np.clip(mean / self._scales, 0, ends),
            sigma=start.sigma,
            bounds=np.stack([np.zeros(len(free)), ends], axis=1),
            n_max_resampling=RESAMPLED,
            population_size=start.population,
        )

    def candidate(self, seed: int) -> Point:
        units = self._drawn(seed) * self._scales
        return {name: from_unit(found, unit) for (name, found), unit in zip(self._free.items(), units, strict=True)}

    def _drawn(self, seed: int) -> Vector:
        self._optimizer.reseed_rng(seed)
        drawn: Vector = self._optimizer.ask()
        return drawn

    def tell(self, seeds: Sequence[int], costs: Sequence[float]) -> None:
        self._optimizer.tell([(self._drawn(seed), cost) for seed, cost in zip(seeds, costs, strict=True)])

    def is_over(self) -> bool:
        return bool(self._optimizer.should_stop())


class _Mixed:
    """CatCMA with margin (Hamano et al., arXiv:2504.07884) for ranges, steps and choices together."""

    def __init__(self, free: Mapping[str, BaseDistribution], start: Start) -> None:
        import cmaes

        self._ranges = {name: found for name, found in free.items() if _is_continuous(found)}
        self._steps = {n: found for n, found in free.items() if n not in self._ranges and not is_choice(found)}
        self._choices = {name: found for name, found in free.items() if is_choice(found)}
        numbers = {**self._ranges, **self._steps}
        scales = np.array([start.scales.get(name, 1.0) for name in numbers])
        mean = np.array([to_unit(found, start.mean[name]) for name, found in numbers.items()])
        self._optimizer = cmaes.CatCMAwM(
            x_space=[[0.0, 1.0]] * len(self._ranges) or None,
            z_space=[np.linspace(0, 1, levels(found) or 2).tolist() for found in self._steps.values()] or None,
            c_space=[levels(found) for found in self._choices.values()] or None,
            population_size=start.population,
            mean=mean if numbers else None,
            sigma=start.sigma,
            cov=np.diag(scales**2) if numbers else None,
            cat_param=_leaning(self._choices, start.mean),
        )

    def candidate(self, seed: int) -> Point:
        drawn = self._drawn(seed)
        numbers = np.concatenate([part for part in (drawn.x, drawn.z) if part is not None] or [np.zeros(0)])
        named = {**self._ranges, **self._steps}
        point = {name: from_unit(found, unit) for (name, found), unit in zip(named.items(), numbers, strict=True)}
        rows = drawn.c if drawn.c is not None else []
        chosen = zip(self._choices.items(), rows, strict=True)
        return point | {name: found.to_external_repr(int(np.argmax(row))) for (name, found), row in chosen}

    def _drawn(self, seed: int) -> Any:
        self._optimizer.reseed_rng(seed)
        return self._optimizer.ask()

    def tell(self, seeds: Sequence[int], _costs: Sequence[float]) -> None:
        # Ranks rather than costs: of equal costs the package would take the spread, which is zero, for a scale.
        self._optimizer.tell([(self._drawn(seed), float(rank)) for rank, seed in enumerate(seeds)])

    def is_over(self) -> bool:
        return bool(self._ranges or self._steps) and bool(self._optimizer.should_stop())


def _leaning(choices: Mapping[str, BaseDistribution], mean: Mapping[str, Any]) -> Any:
    """Probabilities of the choices at the start: half for the start's own, the rest for all alike."""
    if not choices:
        return None
    widest = max(levels(found) or 0 for found in choices.values())
    rows = np.zeros((len(choices), widest))
    for row, (name, found) in zip(rows, choices.items(), strict=True):
        count = levels(found) or 0
        row[:count] = 0.5 / count
        row[int(found.to_internal_repr(mean[name]))] += 0.5
    return rows
