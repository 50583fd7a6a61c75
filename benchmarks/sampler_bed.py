"""Simulated merges of four experts, and a descent on them.

A merge has a weight for each expert and layer. Its score is the share of 560 items of four tasks with a positive
margin, and an item's margin has three parts: how hard the item is; how good the merge is at the item's task, a concave
function in which few layers matter, others for each task, and in which every expert harms the tasks of the others; and
a random direction of the item's own, so that near merges agree on most items, as real ones do.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from mergesearch.search.candidates.gradient.descent import BETAS, EPSILON
from mergesearch.search.candidates.gradient.validation import LEAST_GAIN, SHARE
from mergesearch.search.config.search import Gradient
from mergesearch.search.statistics import Array

EXPERTS, ITEMS, TRUTH = 4, 560, 6000
BANDWIDTH = 0.35


@dataclass(frozen=True)
class Items:
    """task: [items]; ease: [items]; own: [items, dimensions], the item's own direction."""

    task: NDArray[np.intp]
    ease: Array
    own: Array


class Bed:
    """Simulated merges: coordinates from 0 to 1, of which 1 is a weight of 0.6."""

    def __init__(self, seed: int, layers: int) -> None:
        rng = np.random.default_rng([seed, layers])
        self.dimensions = EXPERTS * layers
        strength = np.exp(0.6 * rng.standard_normal(EXPERTS))
        relevance = rng.gamma(0.25, 1, size=(EXPERTS, EXPERTS, layers))
        relevance /= relevance.sum(2, keepdims=True)
        own = np.eye(EXPERTS)[:, :, None] * (strength / strength.mean())[:, None, None]
        others = 1 - np.eye(EXPERTS)[:, :, None]
        self._slope = ((2.0 * own - 0.5 * others) * relevance).reshape(EXPERTS, -1)
        self._bend = ((1.1 * own + 0.2 * others) * relevance).reshape(EXPERTS, -1)
        self._mixed = rng.standard_normal((EXPERTS, 6, self.dimensions)) * np.sqrt(0.08 / self.dimensions)
        self._middle = np.full(self.dimensions, 1 / 3)
        self.search, self.truth = self._items(rng, ITEMS), self._items(rng, TRUTH)

    def _items(self, rng: np.random.Generator, count: int) -> Items:
        own = 2.6 / np.sqrt(self.dimensions) * rng.standard_normal((count, self.dimensions))
        return Items(np.arange(count) % EXPERTS, rng.logistic(1.5, 1.0, size=count), own)

    def margins(self, units: Array, items: Items) -> Array:
        """[items]."""
        off = units - self._middle
        mixed = ((self._mixed @ off) ** 2).sum(1)
        skill = self._slope @ units - self._bend @ units**2 - mixed
        return np.asarray(items.ease + skill[items.task] + items.own @ off)

    def accuracy(self, units: Array, items: Items) -> float:
        """The share of the items that are right."""
        return float((self.margins(units, items) > 0).mean())

    def scores(self, units: Array, graded: bool) -> Array:
        """[search items]: right or wrong, or grades by the merge's own spread of margins."""
        margins = self.margins(units, self.search)
        return expit(margins / (BANDWIDTH * margins.std())) if graded else (margins > 0).astype(np.float64)

    def slopes(self, units: Array, items: NDArray[np.intp]) -> Array:
        """[dimensions]: the gradient of the mean grade of some of the search items, the spread held fixed."""
        margins = self.margins(units, self.search)
        scale = BANDWIDTH * margins.std()
        grades, task = expit(margins[items] / scale), self.search.task[items]
        mixed = np.einsum("tkd,tk->td", self._mixed, self._mixed @ (units - self._middle))
        by_unit = (self._slope - 2 * self._bend * units - 2 * mixed)[task] + self.search.own[items]
        return np.asarray((grades * (1 - grades)) @ by_unit / (scale * len(items)))

    def best(self) -> Array:
        """What an oracle finds that climbs the smoothed truth."""

        def loss(units: Array) -> float:
            return -float(expit(2 * self.margins(units, self.truth)).mean())

        box = [(0.0, 1.0)] * self.dimensions
        return np.asarray(minimize(loss, self._middle, method="L-BFGS-B", bounds=box, options={"maxiter": 15}).x)


def descent(bed: Bed, begin: Array, seed: int) -> Iterator[Array]:
    """The ends of a descent's rounds, with a run's settings.

    Another round follows where one gained on the search items that no round follows.
    """
    settings, rng = Gradient(), np.random.default_rng([seed, 1])
    judged, followed = np.split(rng.permutation(ITEMS), [int(SHARE * ITEMS)])
    steps, count = settings.steps // settings.points, round(settings.items * len(followed))
    for number in range(settings.points):
        batches = [rng.choice(followed, count, replace=False) for _ in range(steps)]
        end = _round(bed, begin, settings.learning_rate / 2**number, batches)
        yield end
        gain = (bed.scores(end, True) - bed.scores(begin, True))[judged]
        if gain.mean() <= LEAST_GAIN * gain.std() / np.sqrt(len(gain)):
            return
        begin = end


def _round(bed: Bed, units: Array, rate: float, batches: Sequence[NDArray[np.intp]]) -> Array:
    """Adam, as ``candidates.gradient.descent`` has it; that one needs a model."""
    first, second = np.zeros_like(units), np.zeros_like(units)
    for count, batch in enumerate(batches, 1):
        slopes = bed.slopes(units, batch)
        first, second = BETAS[0] * first + (1 - BETAS[0]) * slopes, BETAS[1] * second + (1 - BETAS[1]) * slopes**2
        mean, variance = first / (1 - BETAS[0] ** count), second / (1 - BETAS[1] ** count)
        remaining = 1 - (count - 1) / len(batches)
        units = np.clip(units + rate * remaining * mean / (np.sqrt(variance) + EPSILON), 0, 1)
    return units
