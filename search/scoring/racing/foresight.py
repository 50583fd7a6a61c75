"""Foretells a candidate's value on all items from those scored so far and from candidates that were scored in full.

Merges of the same models give similar answers: what the items contribute to a candidate's value (grades between 0 and
1, 0 or 1, margins, bits per byte) is close to a linear combination of what they contribute to the values of the
*references*, with the same coefficients for all items. The coefficients have a normal prior, and so a normal posterior:

    x_i = mean_i + shift of the task + Σ_r β_r (reference_r,i − mean_i) + noise_i.

The noise is as large as that of the references on the item. Where the seen items show more, the candidate has a noise
of its own, the same for all items of a task: else a candidate that answers otherwise where all references agree would
be judged by these items alone.

Seen items count with the metric. Unseen ones count with their prediction, plus the mean of what the references' metric
is above their grades. The variance of the sum has four parts: noise, coefficients, the surprise of the seen items, and
how much the references vary in metric less grades, for a candidate that is worse by grades may be better by the metric.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mergesearch.search.scoring.racing.draws import Ints
from mergesearch.search.scoring.racing.survey import Survey
from mergesearch.search.statistics import Array

LEAST = 1e-3
"""The least noise, as a fraction of the references' mean range in the task."""
NOTHING = 1e-9
RIDGE = 1e-3
SHRINKAGES = (0.03, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Weights of the task's mean noise in an item's, in number of references, among which the likeliest is taken."""
DOUBT = 10.0
"""The weight of a scale of 1 in the scale of errors, in number of references."""
LEAST_SCALE = 0.5
OWN_NOISES = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Variances of a candidate's own noise, in units of the task's mean variance; the first that explains it is taken."""


@dataclass(frozen=True)
class Foretold:
    """values: [tasks]; covariance: [tasks, tasks]; biases: [tasks] and [tasks, tasks], mean and covariance.

    The values are: what was seen, what is foretold of the rest, and the mean of the biases: what the metric of the
    unseen items is above their grades. expected: [items], the foretold grades.
    """

    values: Array
    covariance: Array
    biases: tuple[Array, Array]
    expected: Array


@dataclass(frozen=True)
class Candidate:
    """What the items of a candidate contribute: [items] each, of which only those that were seen are read."""

    metric: Array
    grades: Array


@dataclass(frozen=True)
class Foresight:
    """What the references tell of another candidate.

    grades, metric: [references, items], contributions of the items of all tasks; the grades of no two references are
    equal. tasks: [items], the number of each item's task. shares: [tasks, items], the weight of each item in the value
    of each task; the sum over a task's items is 1.
    """

    grades: Array
    metric: Array
    tasks: Ints
    shares: Array

    @cached_property
    def noise(self) -> Array:
        """[items], positive: the standard deviation of what the references do not tell of another candidate."""
        count, square = len(self.grades), self._left_out**2
        typical, least = self._by_task(square.mean(0)), LEAST * self._by_task(np.ptp(self.grades, axis=0))

        def variance(sums: Array, number: int, shrinkage: float) -> Array:
            return np.asarray((sums + shrinkage * typical) / (number + shrinkage) + least**2 + NOTHING**2)

        def surprise(shrinkage: float) -> float:
            others = variance(square.sum(0) - square, count - 1, shrinkage)
            return float((np.log(others) + square / others).sum())

        return np.asarray(np.sqrt(variance(square.sum(0), count, min(SHRINKAGES, key=surprise))))

    @cached_property
    def _left_out(self) -> Array:
        """[references, items]: each reference minus its prediction from the others, were the item left out as well."""
        return np.stack([self._unexplained(number) for number in range(len(self.grades))])

    def _unexplained(self, number: int) -> Array:
        mean, x = self._features(np.delete(self.grades, number, axis=0))
        y = self.grades[number] - mean
        gram = x.T @ x
        inverse = np.linalg.inv(gram + (RIDGE * np.trace(gram) / len(gram) + NOTHING**2) * np.eye(len(gram)))
        leverage = ((x @ inverse) * x).sum(1)
        return np.asarray((y - x @ (inverse @ (x.T @ y))) / (1 - leverage))

    def _features(self, references: Array) -> tuple[Array, Array]:
        """([items] mean, [items, tasks + references]), scaled so that every coefficient has prior variance 1."""
        mean = references.mean(0)
        apart = references - mean
        shift = np.sqrt(self._by_task((apart**2).mean(0)))
        shifts = (self.tasks == np.arange(len(self.shares))[:, None]) * shift
        return mean, np.vstack([shifts, apart / np.sqrt(max(1, len(references) - 1))]).T

    def _by_task(self, values: Array) -> Array:
        """[items]: the mean over the item's task."""
        return np.asarray((np.bincount(self.tasks, values) / np.bincount(self.tasks))[self.tasks])

    @cached_property
    def _biases(self) -> Array:
        """[references, tasks]: what the metric is above the grades."""
        return (self.metric - self.grades) @ self.shares.T

    def foretell(self, candidate: Candidate, blocks: Sequence[Ints]) -> Iterator[Foretold]:
        """The values after each block, given the items that were seen up to then. blocks: the items of each."""
        yield from self._foretell(candidate, blocks, np.full(len(self.grades), True))

    def _foretell(self, candidate: Candidate, blocks: Sequence[Ints], kept: Array) -> Iterator[Foretold]:
        mean, x = self._features(self.grades[kept])
        y, seen, typical = candidate.grades - mean, np.full(len(mean), False), self._by_task(self.noise**2)
        for block in blocks:
            seen[block] = True
            for own in OWN_NOISES:
                variance = self.noise**2 + own * typical
                expected, covariance = _fitted(x, y, variance, seen)
                surprise = float(((y - expected)[seen] ** 2 / variance[seen]).mean())
                if surprise <= 1:
                    break
            unseen = self.shares * ~seen
            spread = (unseen * variance) @ unseen.T + (unseen @ x) @ covariance @ (unseen @ x).T
            values = (self.shares * seen) @ np.where(seen, candidate.metric, 0.0) + unseen @ (mean + expected)
            biases = self._biases_of(unseen.sum(1))
            total = max(1.0, surprise) * spread + biases[1]
            yield Foretold(values + biases[0], total, biases, mean + expected)

    def _biases_of(self, unseen: Array) -> tuple[Array, Array]:
        """Mean and covariance. unseen: [tasks], the share of each that was not seen."""
        covariance = np.atleast_2d(np.cov(self._biases.T))
        return unseen * self._biases.mean(0), np.sqrt(np.outer(unseen, unseen)) * covariance

    def survey(self, candidate: Candidate, foretold: Foretold, seen: Ints, odds: Array) -> Survey:
        """The candidate's survey. seen: the numbers of the seen items; odds: [items], of not being drawn so far."""
        was_seen = np.full(len(odds), False)
        was_seen[seen] = True
        typical = (self.metric - self.grades).mean(0)
        return Survey(
            known=np.where(was_seen, candidate.metric, foretold.expected),
            grades=np.where(was_seen, candidate.grades - foretold.expected, 0.0),
            biases=np.where(was_seen, candidate.metric - candidate.grades - typical, 0.0),
            typical=typical,
            prior=foretold.biases,
            seen=was_seen,
            odds=odds,
            shares=self.shares,
        )

    def scale(self, blocks: Sequence[Ints]) -> float:
        """By how much errors are larger than they are foretold: that of the references, each told by the others.

        All are scored in full, whatever is foretold of them, or were not stopped: of these, only errors in one
        direction are too rare, and their mean square counts both.
        """
        squares = [self._squared_error(number, blocks) for number in range(len(self.grades))]
        return max(LEAST_SCALE, float(np.sqrt((sum(squares) + DOUBT) / (len(squares) + DOUBT))))

    def _squared_error(self, number: int, blocks: Sequence[Ints]) -> float:
        """The mean over blocks and tasks, in units of the foretold variance."""
        candidate, truth = Candidate(self.metric[number], self.grades[number]), self.shares @ self.metric[number]
        kept = np.arange(len(self.grades)) != number
        errors = [
            (truth - found.values) ** 2 / (np.diag(found.covariance) + NOTHING**2)
            for found in self._foretell(candidate, blocks, kept)
        ]
        return float(np.mean(errors))


def _fitted(x: Array, y: Array, variance: Array, seen: Array) -> tuple[Array, Array]:
    """([items] expected y, covariance of the coefficients), from the seen items."""
    known = x[seen] / variance[seen, None]
    covariance = np.linalg.inv(np.eye(x.shape[1]) + known.T @ x[seen])
    return x @ (covariance @ (known.T @ y[seen])), covariance
