"""MERGE3 (Mencattini et al., arXiv:2502.10436): a genetic algorithm on scores that item response theory estimates.

A candidate is scored on a tenth of the items. The answers of the base and of the models to all items fit a logistic
model of two parameters with several dimensions, P(right) = σ(aᵀθ - b). A merge's ability θ is a linear combination of
those of the models (their equation 5), whose weights are fitted to its answers; its score is the mean of the answers
that are known and of the probabilities of the others (mp-IRT).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit
from search_common import Array

from mergesearch.seeds import derive

SHARE = 0.1
"""The share of the items that a candidate is scored on."""
PRIOR = 1.0
"""The precision of the normal priors of all parameters."""


@dataclass(frozen=True)
class ItemModel:
    """The items of one task: ``slopes`` [items, dimensions], ``offsets`` [items], abilities [models, dimensions]."""

    slopes: Array
    offsets: Array
    abilities: Array

    def probabilities(self, ability: Array) -> Array:
        """[items]: the probability of a right answer."""
        return np.asarray(expit(self.slopes @ ability - self.offsets))

    def estimate(self, answers: Array, known: Array) -> float:
        """The score of a merge, whose ``answers`` to the items with the numbers ``known`` are 0 or 1."""
        probabilities = self.probabilities(self._weights(answers, known) @ self.abilities)
        probabilities[known] = answers
        return float(probabilities.mean())

    def _weights(self, answers: Array, known: Array) -> Array:
        """[models]: the combination of abilities that makes the answers most probable."""
        count = len(self.abilities)
        slopes, offsets = self.slopes[known] @ self.abilities.T, self.offsets[known]

        def loss(weights: Array) -> tuple[float, Array]:
            logits = slopes @ weights - offsets
            value, gradient = _loss(logits, answers)
            apart = weights - 1 / count
            return value + PRIOR / 2 * float(apart @ apart), slopes.T @ gradient + PRIOR * apart

        return np.asarray(minimize(loss, np.full(count, 1 / count), jac=True, method="L-BFGS-B").x)


def fit(answers: Array, seed: int) -> ItemModel:
    """From the answers of the models, [models, items], 0 or 1; maximum a posteriori."""
    models, items = answers.shape
    dimensions = models
    rng = np.random.default_rng(derive(seed, "item response"))
    sizes = (items * dimensions, items, models * dimensions)
    cuts = np.cumsum(sizes)[:-1]

    def unpack(flat: Array) -> tuple[Array, Array, Array]:
        slopes, offsets, abilities = np.split(flat, cuts)
        return slopes.reshape(items, dimensions), offsets, abilities.reshape(models, dimensions)

    def loss(flat: Array) -> tuple[float, Array]:
        slopes, offsets, abilities = unpack(flat)
        value, gradient = _loss(abilities @ slopes.T - offsets, answers)
        parts = [(gradient.T @ abilities).ravel(), -gradient.sum(0), (gradient @ slopes).ravel()]
        return value + PRIOR / 2 * float(flat @ flat), np.concatenate(parts) + PRIOR * flat

    start = rng.normal(0, 0.1, sum(sizes))
    return ItemModel(*unpack(np.asarray(minimize(loss, start, jac=True, method="L-BFGS-B").x)))


def _loss(logits: Array, answers: Array) -> tuple[float, Array]:
    """The negative log-likelihood of the answers, and its gradient by the logits."""
    value = np.logaddexp(0, logits).sum() - (answers * logits).sum()
    return float(value), expit(logits) - answers


def subset(items: int, rng: np.random.Generator) -> Array:
    """The numbers of the items that candidates are scored on: a random subset, at least 20."""
    return np.sort(rng.choice(items, min(items, max(20, round(SHARE * items))), replace=False))


def combined(models: Sequence[ItemModel], answers: Sequence[Array], known: Sequence[Array]) -> list[float]:
    """The estimated value of each task."""
    return [model.estimate(a, k) for model, a, k in zip(models, answers, known, strict=True)]
