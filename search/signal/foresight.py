"""Foretells what the unseen items of a candidate contribute to its values, from candidates that were scored in full.

Merges of the same models give similar answers: what the items contribute to a candidate's value is close to a linear
combination of what they contribute to the values of the *references*, with the same coefficients for all items:

    x_i = mean_i + shift of the task + Σ_r β_r (reference_r,i − mean_i) + noise_i.

The coefficients and shifts have a normal prior (ridge regression). The noise is as large as the references' on the
item, each foretold by the others, times a factor of the candidate's own. Which items are seen may depend on the
references, as in a race: the prediction is given them.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mergesearch.search.statistics import Array

Ints = NDArray[np.int64]
COEFFICIENTS = 2.0
"""The prior variance of the coefficients' sum of squares, before the candidate is seen."""
SHIFT = 0.3
"""The prior standard deviation of a task's shift, in units of the references' typical deviation from their mean."""
DOUBT = 1.0
"""The weight of the task's mean noise in an item's, in number of references."""
OWN = np.geomspace(0.01, 100.0, 13)
"""Factors of a candidate's own noise, among which the likeliest is taken."""
USUAL = 4.0
"""The weight of a factor of 1 in the choice, in number of items."""
NOTHING = 1e-18


@dataclass(frozen=True)
class Foretold:
    """What is foretold of a candidate.

    expected: [items]; features: [features, items]; covariance: [features, features], of their coefficients; noise:
    [items], variances.
    """

    expected: Array
    features: Array
    covariance: Array
    noise: Array

    @property
    def deviation(self) -> Array:
        """[items]: the standard deviation of what an item contributes, about what is expected."""
        told = (self.features * (self.covariance @ self.features)).sum(0)
        return np.asarray(np.sqrt(told + self.noise))

    def variance(self, weights: Array) -> float:
        """That of a weighted sum of what items contribute; weights: [items], 0 for those that were seen."""
        sums = self.features @ weights
        return float(sums @ self.covariance @ sums + weights**2 @ self.noise)


@dataclass(frozen=True)
class Foresight:
    """What the references tell of another candidate.

    references: [references, items], contributions, at least one reference; tasks: [items], the number of each item's
    task.
    """

    references: Array
    tasks: Ints

    @cached_property
    def mean(self) -> Array:
        """[items]."""
        return np.asarray(self.references.mean(0))

    @cached_property
    def left_out(self) -> Array:
        """[references, items]: each reference minus what the others foretell of it; of a single one, minus its mean."""
        if len(self.references) == 1:
            return self.references - by_task(self.references[0], self.tasks)
        return np.stack([self._left_out(number) for number in range(len(self.references))])

    def _left_out(self, number: int) -> Array:
        others, one = Foresight(np.delete(self.references, number, axis=0), self.tasks), self.references[number]
        even = by_task((one - others.mean) ** 2, self.tasks) + NOTHING
        return np.asarray(one - others._fitted(one, even).expected)

    @cached_property
    def noise(self) -> Array:
        """[items], positive: the variance of what the references do not tell of another candidate."""
        return pooled(self.left_out**2, self.tasks)

    def foretell(self, contributions: Array) -> Foretold:
        """Of a candidate. contributions: [items], NaN where an item was not seen."""
        return self._fitted(contributions, self.noise)

    def filled(self, contributions: Array) -> Array:
        """The contributions, [items], with those that are NaN foretold."""
        return np.where(np.isnan(contributions), self.foretell(contributions).expected, contributions)

    def _fitted(self, contributions: Array, noise: Array) -> Foretold:
        """With the noise times the factor that makes what was seen likeliest."""
        seen, features = ~np.isnan(contributions), self._features
        target, known = (contributions - self.mean)[seen], features[:, seen] / noise[seen]
        sizes, axes = np.linalg.eigh(known @ features[:, seen].T)
        along = axes.T @ (known @ target)
        own = _likeliest(sizes, along, float((target**2 / noise[seen]).sum()), len(target))
        expected = self.mean + (axes @ (along / (own + sizes))) @ features
        covariance = (axes * (own / (own + sizes))) @ axes.T
        return Foretold(expected, features, np.asarray(covariance), own * noise)

    @cached_property
    def _features(self) -> Array:
        """[references + tasks, items], scaled so that every coefficient has prior variance 1."""
        apart = self.references - self.mean
        each = np.sqrt(COEFFICIENTS / max(1, len(apart) - 1)) * apart
        shift = SHIFT * np.sqrt(by_task((apart**2).mean(0), self.tasks))
        return np.vstack([each, (self.tasks == np.unique(self.tasks)[:, None]) * shift])


def pooled(squares: Array, tasks: Ints) -> Array:
    """[items], positive: mean squares of the references, [references, items], each drawn to its task's."""
    typical = by_task(squares.mean(0), tasks)
    return np.asarray((squares.sum(0) + DOUBT * typical) / (len(squares) + DOUBT) + NOTHING)


def by_task(values: Array, tasks: Ints) -> Array:
    """[items]: the mean over the item's task."""
    return np.asarray((np.bincount(tasks, values) / np.maximum(1, np.bincount(tasks)))[tasks])


def _likeliest(sizes: Array, along: Array, squares: float, count: int) -> float:
    """The likeliest of ``OWN`` as the factor of the noise.

    sizes: [features], the eigenvalues of what the seen items tell of the coefficients; along: [features], what they
    tell along each axis; squares: their sum in units of the noise; count: how many were seen.
    """
    own = OWN[:, None]
    explained = (along**2 / (own + sizes)).sum(1) / OWN
    surprise = (count + USUAL) * np.log(OWN) + np.log1p(sizes / own).sum(1) + (squares + USUAL) / OWN - explained
    return float(OWN[np.argmin(surprise)])
