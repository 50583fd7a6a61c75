"""What a model learns from: the scored points of a branch, with their values and the noise of these."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from mergesearch.search.samplers._unit_cube import from_unit, to_units
from mergesearch.search.samplers.branches import Branch, Point
from mergesearch.search.statistics import Array
from mergesearch.search.study import trials as t

SIDE = 0.5**0.5
"""The coordinate of the chosen value of a choice, so that points with different values are 1 apart."""
OWN = 0.14
"""The part of the variance of a told standard error that is a point's own: near points err alike on the same items. A
first guess; the best of four by ``benchmarks/sampler_bench.py``."""
NOISE = 0.25
"""The variance of the noise of a fully scored point, over that of the values of the better half of the points: a first
guess, where no trial tells its standard error."""
CHANGES = 0.3
"""The largest share of the points at which a choice is drawn again; of many choices, one at a point on average."""
TRIES = 50
"""How often a point is drawn again that was scored already."""


class Encoding:
    """Points of some dimensions as rows of numbers: one column for a range, one for each value of a choice.

    Attributes:
        columns: those of each dimension, by name.
        ranges: the columns of ranges.
        choices: the columns of each choice.
    """

    def __init__(self, free: Mapping[str, BaseDistribution]) -> None:
        self._free = free
        columns, begin = {}, 0
        for name, found in free.items():
            width = len(found.choices) if isinstance(found, CategoricalDistribution) else 1
            columns[name] = np.arange(begin, begin + width)
            begin += width
        self.width = begin
        is_choice = {name: isinstance(found, CategoricalDistribution) for name, found in free.items()}
        self.columns = columns
        self.ranges = np.array([own[0] for name, own in columns.items() if not is_choice[name]], dtype=int)
        self.choices = [own for name, own in columns.items() if is_choice[name]]

    def encode(self, points: Sequence[Mapping[str, Any]]) -> Array:
        """[points, width] float64."""
        rows = np.zeros((len(points), self.width))
        for name, found in self._free.items():
            own, values = self.columns[name], [point[name] for point in points]
            if isinstance(found, CategoricalDistribution):
                chosen = [int(found.to_internal_repr(value)) for value in values]
                rows[np.arange(len(points)), own[np.array(chosen, dtype=int)]] = SIDE
            else:
                rows[:, own[0]] = to_units(found, values)
        return rows

    def decode(self, row: Array) -> Point:
        """The point nearest to a row; a choice has the value of its largest column."""
        return {name: self._value(found, row[self.columns[name]]) for name, found in self._free.items()}

    def columnwise(self, numbers: Mapping[str, float]) -> Array:
        """[width]: each dimension's number in its columns."""
        return np.array([numbers[name] for name, own in self.columns.items() for _ in own])

    def around(self, row: Array, sigma: float, rng: np.random.Generator) -> Array:
        """The row after a normal step in every range, at some choices with another value."""
        row = row.copy()
        row[self.ranges] += sigma * rng.standard_normal(len(self.ranges))
        for columns in self.choices:
            if rng.random() < min(CHANGES, 1 / len(self.choices)):
                row[columns] = 0.0
                row[rng.choice(columns)] = SIDE
        return np.clip(row, 0.0, 1.0)

    @staticmethod
    def _value(found: BaseDistribution, part: Array) -> object:
        if isinstance(found, CategoricalDistribution):
            return found.to_external_repr(int(part.argmax()))
        return from_unit(found, float(part[0]))


def new_point(encoding: Encoding, scored: Array, draw: Callable[[], Array]) -> Point:
    """The point of a row that ``draw`` gives, drawn again a number of times where it is one of the ``scored`` rows."""
    known = {tuple(row) for row in scored}
    for _ in range(TRIES):
        point = encoding.decode(draw())
        if tuple(encoding.encode([point])[0]) not in known:
            break
    return point


@dataclass(frozen=True)
class Observations:
    """Scored points.

    Attributes:
        points: [n, width], as the encoding gives them.
        values: [n], higher is better.
        variances: [n]: those of the values' noise, up to a common factor.
    """

    points: Array
    values: Array
    variances: Array

    def __len__(self) -> int:
        return len(self.values)

    def some(self, most: int) -> "Observations":
        """At most so many: the better ones and the latest ones, half of each."""
        if len(self) <= most:
            return self
        best = np.argsort(-self.values, kind="stable")[: most // 2]
        rest = np.setdiff1d(np.arange(len(self)), best)
        kept = np.sort(np.concatenate([best, rest[-(most - len(best)) :]]))
        return Observations(self.points[kept], self.values[kept], self.variances[kept])


def observations(study: Study, branch: Branch, encoding: Encoding) -> Observations:
    """Those of a branch, of the trials that the study shows: baselines that lie in the space are among them.

    A trial that took another one's scores tells nothing new. One that violates constraints, or failed, counts at most
    as much as the worst one that did neither.
    """
    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
    inside = [trial for trial in ended if branch.contains(trial) and not t.is_interrupted(trial)]
    trials = [trial for trial in inside if t.SAME_AS not in trial.user_attrs]
    points = encoding.encode([trial.params for trial in trials])
    values = _values(study, trials)
    return Observations(points, values, _variances(trials, values))


def _values(study: Study, trials: Sequence[FrozenTrial]) -> Array:
    sign = -1.0 if study.direction == StudyDirection.MINIMIZE else 1.0
    scores = np.array([sign * trial.value if trial.value is not None else np.nan for trial in trials])
    violations = np.array([t.violation(trial) for trial in trials])
    good = (violations == 0) & ~np.isnan(scores)
    if not good.any():
        return np.asarray(-violations - np.isnan(scores))
    worst = scores[good].min()
    return np.asarray(np.where(good, scores, np.fmin(scores, worst)))


def _variances(trials: Sequence[FrozenTrial], values: Array) -> Array:
    """From the standard errors. Of trials that do not tell any, in proportion to one over the items."""
    own = OWN * np.array([trial.user_attrs.get(t.STANDARD_ERROR, 0.0) for trial in trials], dtype=float) ** 2
    told = np.isfinite(own) & (own > 0)
    guess = float(np.median(own[told])) if told.any() else _guess(values)
    items = np.array([t.items_of(trial) for trial in trials], dtype=float)
    most = items.max(initial=1.0)
    return np.asarray(np.where(told, own, guess * most / np.where(items > 0, items, most)))


def _guess(values: Array) -> float:
    better = np.sort(values)[len(values) // 2 :]
    return NOISE * float(better.var() if len(better) > 1 else 0.0) or 1.0
