"""M2N2: a population of merges that compete for items, and mates that solve what the other one does not.

Abrantes et al., Competition and Attraction Improve Model Fusion, arXiv:2508.16204. With s_ij, the score of candidate i
on item j; z_j, the sum of s_ij over the population; and c_j, the largest s_ij, by which the item counts:

* Competition: an item's worth is shared among those that solve it. f_i = Σ_j c_j s_ij / z_j. Every candidate enters the
  population; while it is too large, the one with the lowest f leaves.
* Attraction: the first parent a is drawn in proportion to f, the second one b in proportion to
  g_b = Σ_j c_j max(s_bj − s_aj, 0) / z_j.
* Split point: with a mixing ratio m and a split point d, both uniform in [0, 1], the child is (1 − m) a + m b below the
  depth d, and m a + (1 − m) b above it.

The paper mixes the parents' weights by SLERP at any place of the flattened weights. Here the points of the search space
are mixed, linearly, at any depth of the layers: where a tensor is a weighted sum of the models, that mixes the weights,
too. Choices are taken from the parent with the larger share. A small normal step follows, as the paper has it where it
starts from scratch; without it a population cannot leave the hull of its first points.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial

from mergesearch.search.samplers._in_branch import BranchSampler
from mergesearch.search.samplers._observations import Encoding, new_point
from mergesearch.search.samplers.branches import Branch, Point
from mergesearch.search.statistics import Array
from mergesearch.search.study import trials as t

ItemScores = Callable[[FrozenTrial], Array | None]
"""[items] float64: what each item adds to a trial's objective, higher is better; None where nothing is known."""
Scored = Sequence[tuple[FrozenTrial, Array]]
"""Trials and their item scores."""
POPULATION = 6
"""Larger ones, such as the paper's 20, need more candidates than a search for a merge has."""
FEWEST = 4
"""Fewer candidates than this are joined by random ones before any is bred."""
SIGMA = 0.1
"""The standard deviation of the step after crossing, as a fraction of each range."""
PLACE = re.compile(r"\[(\d+)\]|\bslice(\d+)\.")
"""The parts of a dimension's name that say where in the depth of the model it is."""


def depths(names: Iterable[str]) -> dict[str, float]:
    """Where each dimension is from the first layer, 0, to the last one, 1: by its rank among those of the same hole.

    Dimensions for all layers have the order of the names.
    """
    holes: dict[str, list[tuple[list[int], str]]] = {}
    for name in names:
        numbers = [int(one or two) for one, two in PLACE.findall(name)]
        holes.setdefault(PLACE.sub("", name) if numbers else "", []).append((numbers, name))
    ranked = ((sorted(found, key=lambda entry: entry[0]), len(found)) for found in holes.values())
    return {name: (rank + 0.5) / count for found, count in ranked for rank, (_, name) in enumerate(found)}


@dataclass(frozen=True)
class Population:
    """Candidates that compete.

    Attributes:
        points: [candidates, width], as the encoding gives them.
        scores: [candidates, items] float64, none below 0.
    """

    points: Array
    scores: Array

    @property
    def prices(self) -> Array:
        """[items]: c_j / z_j; 0 where nobody scores."""
        total, capacity = self.scores.sum(0), self.scores.max(0)
        found: Array = np.divide(capacity, total, out=np.zeros_like(total), where=total > 0)
        return found

    @property
    def fitness(self) -> Array:
        """[candidates]: f."""
        found: Array = self.scores @ self.prices
        return found

    def attraction(self, first: int) -> Array:
        """[candidates]: how much each one attracts the ``first``: g."""
        found: Array = np.maximum(self.scores - self.scores[first], 0) @ self.prices
        return found

    def of(self, kept: Sequence[int] | NDArray[np.intp]) -> "Population":
        """Some of them."""
        return Population(self.points[kept], self.scores[kept])

    def survivors(self, size: int) -> "Population":
        """What is left of them when they enter one after the other, and the least fit one leaves beyond ``size``."""
        kept: list[int] = []
        for index in range(len(self.points)):
            kept.append(index)
            if len(kept) > size:
                del kept[int(self.of(kept).fitness.argmin())]
        return self.of(kept)


def cross(first: Array, second: Array, ratio: float, split: float, positions: Array) -> Array:
    """The child of two rows: so much of the second one below the split, and so much of the first one above it.

    Args:
        first: [width].
        second: [width].
        ratio: from 0 to 1.
        split: from 0 to 1.
        positions: [width], the depth of each column, from 0 to 1.
    """
    shares = np.where(positions < split, ratio, 1 - ratio)
    child: Array = (1 - shares) * first + shares * second
    return child


class NichesSampler(BranchSampler):
    """Crosses merges, as the module describes, in the branch of the best trial.

    Args:
        branches: the search space.
        seed: another one for every trial.
        item_scores: what competition is about; without it all compete for the objective as a single item.
        population: see ``POPULATION``; None: that.
        sigma: see ``SIGMA``; None: that.
    """

    def __init__(
        self,
        branches: Sequence[Branch],
        seed: int,
        item_scores: ItemScores | None = None,
        population: int | None = None,
        sigma: float | None = None,
    ) -> None:
        super().__init__(branches, seed)
        self._item_scores = item_scores
        self._size = population or POPULATION
        self._sigma = SIGMA if sigma is None else sigma

    def free_point(self, study: Study, branch: Branch, rng: np.random.Generator) -> Point | None:
        """A child of two merges; None while there are few."""
        found, encoding = self._scored(study, branch), Encoding(branch.free)
        if len(found) < FEWEST:
            return None
        everyone = _competing(found, encoding)
        population, positions = everyone.survivors(self._size), encoding.columnwise(depths(branch.free))

        def child() -> Array:
            first, second = _parents(population, rng)
            ratio, split = rng.random(2)
            return encoding.around(cross(first, second, ratio, split, positions), self._sigma, rng)

        return new_point(encoding, everyone.points, child)

    def _scored(self, study: Study, branch: Branch) -> Scored:
        """The candidates of a branch in the order in which they began.

        Where any satisfies the constraints, the others are left out.
        """
        found = self._with_scores(study, branch)
        return [entry for entry in found if t.violation(entry[0]) == 0] or found

    def _with_scores(self, study: Study, branch: Branch) -> Scored:
        trials = [trial for trial in t.completed(study) if branch.contains(trial) and t.SAME_AS not in trial.user_attrs]
        if self._item_scores is None:
            sign = -1.0 if study.direction == StudyDirection.MINIMIZE else 1.0
            return [(trial, np.array([sign * t.score_of(trial)])) for trial in trials]
        found = ((trial, self._item_scores(trial)) for trial in trials)
        return [(trial, scores) for trial, scores in found if scores is not None]


def _competing(found: Scored, encoding: Encoding) -> Population:
    """With scores from 0 up: an item that has lower ones counts from the lowest."""
    points, scores = encoding.encode([trial.params for trial, _ in found]), np.array([own for _, own in found])
    return Population(points, scores - np.minimum(scores.min(0), 0.0))


def _parents(population: Population, rng: np.random.Generator) -> tuple[Array, Array]:
    fitness = population.fitness
    first = _draw(fitness, rng)
    attraction = population.attraction(first)
    if not attraction.any():
        attraction = np.where(np.arange(len(fitness)) == first, 0.0, fitness)
    return population.points[first], population.points[_draw(attraction, rng)]


def _draw(weights: Array, rng: np.random.Generator) -> Any:
    """An index, in proportion to the weights; any where all are 0."""
    total = weights.sum()
    return rng.choice(len(weights), p=weights / total if total > 0 else None)
