"""Several objectives: the trials that no other one beats in all of them, and the knee of their front."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial

from mergesearch.search.study import trials as t

Array = NDArray[np.float64]


def is_pareto(study: Study) -> bool:
    """Whether the study has several objectives."""
    return len(study.directions) > 1


def points_of(study: Study, trials: Sequence[FrozenTrial]) -> Array:
    """[trials, objectives]: their values, signs turned where less is better."""
    signs = [1.0 if direction == StudyDirection.MAXIMIZE else -1.0 for direction in study.directions]
    return np.array([trial.values for trial in trials], dtype=np.float64).reshape(-1, len(signs)) * signs


def front_of(study: Study) -> list[FrozenTrial]:
    """The Pareto front of the complete trials that keep the constraints; of equal ones the first.

    Along the first objective, the best in it first.
    """
    trials = [trial for trial in t.contenders(study) if not t.violation(trial)]
    points = points_of(study, trials)
    unique: dict[tuple[float, ...], FrozenTrial] = {}
    for point, trial, is_best in zip(points.tolist(), trials, best_of(points), strict=True):
        if is_best:
            unique.setdefault(tuple(point), trial)
    return [unique[point] for point in sorted(unique, reverse=True)]


def best_of(points: Array) -> list[bool]:
    """Which points no other one dominates, being as good in every objective and better in one.

    points: [points, objectives], more is better.
    """
    return [not ((points >= point).all(1) & (points > point).any(1)).any() for point in points]


def knee(points: Array) -> int | None:
    """The place of the front's knee; None where no point stands out. points: [members, objectives], more is better.

    Where a little more in one objective costs much in another (Branke et al., Finding knees in multi-objective
    optimization, PPSN 2004). Found as the point farthest beyond the plane through the objectives' best values (Das, On
    characterizing the "knee" of the Pareto curve, Structural Optimization 18, 1999): with each objective from 0, its
    worst on the front, to 1, its best, that is the plane Σ x = 1, and the distance grows with Σ x. For two objectives
    it is the line between the two ends of the front, and a point on it or behind it is no knee.
    """
    low, high = points.min(0), points.max(0)
    ranges = np.where(high > low, high - low, 1.0)
    distances = ((points - low) / ranges).sum(1) - 1
    place = int(distances.argmax())
    return place if distances[place] > 1e-9 else None
