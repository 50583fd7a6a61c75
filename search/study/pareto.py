"""Several objectives: the trials that no other trial dominates, and the knee of their front."""

from collections.abc import Sequence

import numpy as np
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial

from mergesearch.search.statistics import Array
from mergesearch.search.study import trials as t


def is_pareto(study: Study) -> bool:
    """Whether the study has several objectives."""
    return len(study.directions) > 1


def points_of(study: Study, trials: Sequence[FrozenTrial]) -> Array:
    """The trials' values, [trials, objectives]; the sign of minimized objectives is changed, so that more is better."""
    signs = [1.0 if direction == StudyDirection.MAXIMIZE else -1.0 for direction in study.directions]
    return np.array([trial.values for trial in trials], dtype=np.float64).reshape(-1, len(signs)) * signs


def front_of(study: Study) -> list[FrozenTrial]:
    """The Pareto front of the complete trials that satisfy the constraints, ordered by the first objective, best first.

    Of trials with equal values, it has the first.
    """
    trials = [trial for trial in t.contenders(study) if not t.violation(trial)]
    points = points_of(study, trials)
    front: dict[tuple[float, ...], FrozenTrial] = {}
    for point, trial, is_best in zip(points.tolist(), trials, best_of(points), strict=True):
        if is_best:
            front.setdefault(tuple(point), trial)
    return [front[point] for point in sorted(front, reverse=True)]


def best_of(points: Array) -> list[bool]:
    """Which points no other point dominates. points: [points, objectives], more is better.

    A point dominates another where it is at least as good in every objective and better in one.
    """
    return [not ((points >= point).all(1) & (points > point).any(1)).any() for point in points]


def knee(points: Array) -> int | None:
    """The index of a front's knee; None where it has none. points: [points, objectives], more is better.

    At the knee, a small gain in one objective costs much in another (Branke et al., Finding knees in multi-objective
    optimization, PPSN 2004). It is the point farthest beyond the plane through the best values of the objectives (Das,
    On characterizing the "knee" of the Pareto curve, Structural Optimization 18, 1999). Each objective is scaled from
    its worst value on the front, 0, to its best, 1. The plane is then Σ x = 1, and the distance from it grows with
    Σ x. With two objectives it is the line between the ends of the front. A point on the plane or behind it is no
    knee.
    """
    low, high = points.min(0), points.max(0)
    ranges = np.where(high > low, high - low, 1.0)
    distances = ((points - low) / ranges).sum(1) - 1
    farthest = int(distances.argmax())
    return farthest if distances[farthest] > 1e-9 else None
