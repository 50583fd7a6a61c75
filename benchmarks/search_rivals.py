"""The search methods of other projects, with their default settings. Every candidate is scored on all items.

Each method is a function of a black box and a seed. It runs until ``BlackBox.score`` raises.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import cmaes
import numpy as np
import optuna
from search_common import Array, method_named, ranges_of

from mergesearch.search.space.space import Space
from mergesearch.seeds import derive


class BlackBox(Protocol):
    """What a rival maximises: the objective of the recipes of a space, on the search items."""

    @property
    def space(self) -> Space: ...
    def bounds(self, method: str) -> tuple[Array, Array]:
        """[dimensions] each: the lowest and the highest values of a method's dimensions."""
        ...

    def score(self, method: str, values: Array) -> float:
        """The objective of one candidate, scored in full; values are clipped to the bounds."""
        ...

    def recommend(self, values: Array) -> None:
        """Says that the search would hand over this point now. Without it, it is the best-scored candidate."""
        ...


Rival = Callable[[BlackBox, int], None]


def mergekit_evolve(method: str) -> Rival:
    """CMA-ES over one method's parameters, with the defaults of mergekit's ``mergekit-evolve``.

    The genome has one weight, and one density where the method has densities, for each model and group of layers. The
    search starts at weights of 1 / models and densities of 1, with σ = 1/6 in units of the values. There are no bounds:
    the absolute values of weights and densities are used, and densities above 1 are 1. The population is 4 + ⌊3 ln n⌋
    (mergekit/evo/genome.py, mergekit/scripts/evolve.py and pycma's defaults; Goddard et al., arXiv:2403.13257).
    """

    def search(box: BlackBox, seed: int) -> None:
        names = _dimensions(box.space, method)
        start = np.array([1.0 if "density" in name else 1 / len(box.space.models) for name in names])
        optimizer = cmaes.CMA(mean=start, sigma=1 / 6, seed=seed)
        while True:
            population = [optimizer.ask() for _ in range(optimizer.population_size)]
            optimizer.tell([(point, -box.score(method, np.abs(point))) for point in population])

    return search


def _dimensions(space: Space, method: str) -> list[str]:
    return list(ranges_of(space, method_named(space, method)))


SWEEP = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
"""The single weights that a person tries by hand."""


def cmaes_from_best_weight(method: str, sigma: float = 0.12, population: int = 12) -> Rival:
    """CMA-ES as a careful person uses it: begun at the best single weight for all models, with a small σ.

    σ is in units of the weights. The mean of the distribution is what it hands over after each generation.
    """

    def search(box: BlackBox, seed: int) -> None:
        low, high = box.bounds(method)
        points = [np.clip(np.full(len(low), weight), low, high) for weight in SWEEP]
        start = max(points, key=lambda point: box.score(method, point))
        bounds = np.stack([low, high], axis=1)
        optimizer = cmaes.CMA(mean=start, sigma=sigma, bounds=bounds, population_size=population, seed=seed)
        while True:
            asked = [optimizer.ask() for _ in range(population)]
            optimizer.tell([(point, -box.score(method, point)) for point in asked])
            box.recommend(optimizer.mean)

    return search


POPULATION = 10
"""The default of mergenetic's interface; pymoo's is 100."""
CROSSOVER, EXCHANGED, ETA_CROSSOVER = 0.9, 0.5, 15.0
"""The probability that two parents are crossed, that of each of their values, and the index of the distribution."""
MUTATION, ETA_MUTATION = 0.9, 20.0
"""The probability that a child is mutated, and the index of the distribution."""


def mergenetic(method: str) -> Rival:
    """The genetic algorithm of mergenetic (Minut et al., arXiv:2505.11427): pymoo's GA with its defaults.

    Binary tournaments select the parents. Simulated binary crossover (Deb and Agrawal 1995; bounded as in Deb, Pratap,
    Agarwal and Meyarivan 2002) exchanges half of the values in nine of ten matings. Polynomial mutation (Deb and Goyal
    1996) changes one value in n. The best of parents and children survive.
    """

    def search(box: BlackBox, seed: int) -> None:
        genetic(lambda point: box.score(method, point), *box.bounds(method), np.random.default_rng(seed))

    return search


def genetic(score_of: Callable[[Array], float], low: Array, high: Array, rng: np.random.Generator) -> None:
    """The algorithm of ``mergenetic`` on any score. It runs until ``score_of`` raises."""

    def score(points: Array) -> Array:
        return np.array([score_of(low + point * (high - low)) for point in points])

    points = rng.random((POPULATION, len(low)))
    scores = score(points)
    while True:
        children = _children(points, scores, rng)
        points, scores = np.concatenate([points, children]), np.concatenate([scores, score(children)])
        survivors = np.argsort(-scores, kind="stable")[:POPULATION]
        points, scores = points[survivors], scores[survivors]


def _children(points: Array, scores: Array, rng: np.random.Generator) -> Array:
    """[POPULATION, n]: as many children as parents."""
    pairs = [_crossed(points[_parent(scores, rng)], points[_parent(scores, rng)], rng) for _ in points[::2]]
    return np.array([_mutated(child, rng) for pair in pairs for child in pair])[: len(points)]


def _parent(scores: Array, rng: np.random.Generator) -> int:
    """The better one of two random points."""
    one, two = rng.choice(len(scores), 2, replace=False)
    return int(one if scores[one] > scores[two] else two)


def _crossed(one: Array, two: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Simulated binary crossover in [0, 1]: children at β times the parents' distance from the parents' mean."""
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
    """β of Deb and Agrawal's distribution with index η, truncated at the bound."""
    power = 1 / (ETA_CROSSOVER + 1)
    alpha = 2 - room ** -(ETA_CROSSOVER + 1)
    return float((draw * alpha) ** power if draw <= 1 / alpha else (1 / (2 - draw * alpha)) ** power)


def _mutated(point: Array, rng: np.random.Generator) -> Array:
    """Polynomial mutation in [0, 1]."""
    mutated, power = point.copy(), 1 / (ETA_MUTATION + 1)
    if rng.random() > MUTATION:
        return mutated
    for n in np.flatnonzero(rng.random(len(point)) < min(0.5, 1 / len(point))):
        draw, x = rng.random(), point[n]
        if draw <= 0.5:
            mutated[n] += (2 * draw + (1 - 2 * draw) * (1 - x) ** (ETA_MUTATION + 1)) ** power - 1
        else:
            mutated[n] += 1 - (2 * (1 - draw) + (2 * draw - 1) * x ** (ETA_MUTATION + 1)) ** power
    return np.clip(mutated, 0, 1)


def tpe(box: BlackBox, seed: int) -> None:
    """Optuna's TPE sampler with its defaults."""
    _optimize(box, optuna.samplers.TPESampler(seed=seed))


def gp(box: BlackBox, seed: int) -> None:
    """Optuna's GP sampler with its defaults."""
    _optimize(box, optuna.samplers.GPSampler(seed=seed))


def random(box: BlackBox, seed: int) -> None:
    """Random points, with a random method where the space has several."""
    _optimize(box, optuna.samplers.RandomSampler(seed=derive(seed, "random")))


def _optimize(box: BlackBox, sampler: optuna.samplers.BaseSampler) -> None:
    study = optuna.create_study(direction="maximize", sampler=sampler)
    while True:
        trial = study.ask()
        method = box.space.ask(trial).merge_method
        study.tell(trial, box.score(method, _values(box.space, method, trial.params)))


def _values(space: Space, method: str, params: Mapping[str, Any]) -> Array:
    return np.array([params[name] for name in _dimensions(space, method)])
