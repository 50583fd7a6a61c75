"""The ways of others to search for merges, as they are when nothing is set: what a candidate costs is all its items.

Each is a function of a task to search for (see ``Problem``) and a seed that goes on until ``Problem.score`` raises.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import cmaes
import numpy as np
import optuna
from numpy.typing import NDArray

from mergesearch.search.space.space import Space
from mergesearch.seeds import derive

Array = NDArray[np.float64]


class Problem(Protocol):
    """What is searched: a space of recipes, and their scores on the search items."""

    @property
    def space(self) -> Space: ...
    def ranges(self, method: str) -> tuple[Array, Array]:
        """[dimensions] each: the lowest and the highest values of a method's numbers."""
        ...

    def score(self, method: str, values: Array) -> float:
        """The objective of one candidate, scored in full; values outside the ranges are moved to their ends."""
        ...


Rival = Callable[[Problem, int], None]


def mergekit_evolve(method: str) -> Rival:
    """CMA-ES of one method's genome, as mergekit's ``mergekit-evolve`` runs it by default.

    One weight, and density where the method has one, for each model and group of layers. It starts at weights of
    1 / models and densities of 1 with σ = 1/6 of the values themselves; there are no bounds: weights and densities are
    taken without their sign, densities above 1 are 1. The population is 4 + ⌊3 ln n⌋ (mergekit/evo/genome.py,
    mergekit/scripts/evolve.py and pycma's defaults; Goddard et al., arXiv:2403.13257).
    """

    def search(problem: Problem, seed: int) -> None:
        names = list(_holes(problem.space, method))
        start = np.array([1.0 if "density" in name else 1 / len(problem.space.models) for name in names])
        optimizer = cmaes.CMA(mean=start, sigma=1 / 6, seed=seed)
        while True:
            drawn = [optimizer.ask() for _ in range(optimizer.population_size)]
            optimizer.tell([(one, -problem.score(method, np.abs(one))) for one in drawn])

    return search


def _holes(space: Space, method: str) -> list[str]:
    chosen = next(one for one in space.methods if one.name == method)
    return [hole.name for hole in space.holes_of(chosen)]


POPULATION = 10
"""The default of mergenetic's interface; pymoo's is 100."""
CROSSOVER, EXCHANGED, ETA_CROSSOVER = 0.9, 0.5, 15.0
MUTATION, ETA_MUTATION = 0.9, 20.0


def mergenetic(method: str) -> Rival:
    """The genetic algorithm that mergenetic runs (Minut et al., arXiv:2505.11427): pymoo's GA at its defaults.

    Binary tournaments, simulated binary crossover (Deb and Agrawal 1995; bounded as in Deb, Pratap, Agarwal and
    Meyarivan 2002) of half the numbers in nine matings of ten, polynomial mutation (Deb and Goyal 1996) of one number
    in n, and the best of parents and children survive.
    """

    def search(problem: Problem, seed: int) -> None:
        rng = np.random.default_rng(seed)
        low, high = problem.ranges(method)

        def score(units: Array) -> Array:
            return np.array([problem.score(method, low + unit * (high - low)) for unit in units])

        points = rng.random((POPULATION, len(low)))
        scores = score(points)
        while True:
            children = _children(points, scores, rng)
            points, scores = np.concatenate([points, children]), np.concatenate([scores, score(children)])
            kept = np.argsort(-scores, kind="stable")[:POPULATION]
            points, scores = points[kept], scores[kept]

    return search


def _children(points: Array, scores: Array, rng: np.random.Generator) -> Array:
    """[POPULATION, n]: as many children as parents, in pairs."""
    pairs = [_crossed(points[_parent(scores, rng)], points[_parent(scores, rng)], rng) for _ in points[::2]]
    return np.array([_mutated(child, rng) for pair in pairs for child in pair])[: len(points)]


def _parent(scores: Array, rng: np.random.Generator) -> int:
    """The better of two at random."""
    one, two = rng.choice(len(scores), 2, replace=False)
    return int(one if scores[one] > scores[two] else two)


def _crossed(one: Array, two: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Simulated binary crossover in [0, 1]: children as far from the parents' mean as β times they are."""
    first, second = one.copy(), two.copy()
    if rng.random() > CROSSOVER:
        return first, second
    for n in np.flatnonzero((rng.random(len(one)) < EXCHANGED) & (np.abs(one - two) > 1e-14)):
        low, high = sorted((one[n], two[n]))
        draw = rng.random()
        near = (low + high - _beta(draw, 1 + 2 * low / (high - low)) * (high - low)) / 2
        far = (low + high + _beta(draw, 1 + 2 * (1 - high) / (high - low)) * (high - low)) / 2
        first[n], second[n] = (near, far) if rng.random() < 0.5 else (far, near)
    return np.clip(first, 0, 1), np.clip(second, 0, 1)


def _beta(draw: float, room: float) -> float:
    """β of Deb and Agrawal's distribution with index η, cut where the bound is."""
    power = 1 / (ETA_CROSSOVER + 1)
    alpha = 2 - room ** -(ETA_CROSSOVER + 1)
    return float((draw * alpha) ** power if draw <= 1 / alpha else (1 / (2 - draw * alpha)) ** power)


def _mutated(point: Array, rng: np.random.Generator) -> Array:
    """Polynomial mutation in [0, 1]."""
    found, power = point.copy(), 1 / (ETA_MUTATION + 1)
    if rng.random() > MUTATION:
        return found
    for n in np.flatnonzero(rng.random(len(point)) < min(0.5, 1 / len(point))):
        draw, x = rng.random(), point[n]
        if draw <= 0.5:
            found[n] += (2 * draw + (1 - 2 * draw) * (1 - x) ** (ETA_MUTATION + 1)) ** power - 1
        else:
            found[n] += 1 - (2 * (1 - draw) + (2 * draw - 1) * x ** (ETA_MUTATION + 1)) ** power
    return np.clip(found, 0, 1)


def tpe(problem: Problem, seed: int) -> None:
    """Optuna at its defaults."""
    _optuna(problem, optuna.samplers.TPESampler(seed=seed))


def random(problem: Problem, seed: int) -> None:
    """Points at random, the method too where it is a choice."""
    _optuna(problem, optuna.samplers.RandomSampler(seed=derive(seed, "random")))


def _optuna(problem: Problem, sampler: optuna.samplers.BaseSampler) -> None:
    study = optuna.create_study(direction="maximize", sampler=sampler)
    while True:
        trial = study.ask()
        recipe = problem.space.ask(trial)
        study.tell(trial, problem.score(recipe.merge_method, _values(problem.space, recipe.merge_method, trial.params)))


def _values(space: Space, method: str, params: Mapping[str, Any]) -> Array:
    return np.array([params[name] for name in _holes(space, method)])
