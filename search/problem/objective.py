"""The objective: one number from the values of the tasks, or several."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mergesearch.errors import UserError, listed
from mergesearch.evaluators import Metric
from mergesearch.search.config.evaluate import Aggregation
from mergesearch.search.statistics import Array
from mergesearch.search.study.direction import Direction


@dataclass(frozen=True)
class Share:
    """One task's share of the objective.

    ``chances`` is the score of random guessing in each part of the task, if its values are normalised: a group has one
    part for each subtask, other tasks have one part. Empty if the value counts as it is.
    """

    task: str
    weight: float
    metric: Metric
    chances: Sequence[float] = ()

    @property
    def rows(self) -> int:
        """The number of values that the objective takes from the task."""
        return len(self.chances) or 1

    @property
    def sign(self) -> float:
        return 1.0 if self.metric.higher_is_better else -1.0


@dataclass(frozen=True)
class Objective:
    """Combines the tasks' values, normalised where the config says so, into one number; higher is better.

    ``mean``: the weighted mean; values where lower is better count negatively. ``min``: the worst value.
    ``geometric_mean``: the weighted geometric mean; values below 0 count as 0. The latter two need tasks with the same
    direction; if lower is better, the number is minus the highest value, or minus the geometric mean. ``pareto``: each
    task is an objective (``each``); the winner on the front is selected by the weighted mean.

    The normalised value is max(0, (value − chance) / (1 − chance)), for each task before the aggregation, and for each
    subtask of a group before their plain mean, as in the Open LLM Leaderboard 2
    (huggingface.co/docs/leaderboards/open_llm_leaderboard/normalization); in [0, 1], not in %.

    Raises UserError, which names the tasks, where they cannot be combined.
    """

    shares: Sequence[Share]
    aggregate: Aggregation = "mean"

    def __post_init__(self) -> None:
        for share in self.shares:
            if share.chances and not share.metric.higher_is_better:
                raise UserError(
                    f"normalize: task {share.task!r} has the metric {share.metric.name}, where lower is better; "
                    "only scores from chance to 1 can be normalised: set normalize: none for it"
                )
        if self.aggregate == "pareto" and len(self.shares) < 2:
            named = listed(share.task for share in self.shares)
            raise UserError(f"aggregate: pareto needs two or more tasks with a weight above 0, found {named}")
        if self.aggregate in ("min", "geometric_mean"):
            self._check_directions()
        if self.aggregate == "min" and len({share.weight for share in self.shares}) > 1:
            weights = listed(f"{share.task} {share.weight:g}" for share in self.shares)
            raise UserError(f"aggregate: the minimum over tasks takes no weights but 0 and 1, found {weights}")

    def _check_directions(self) -> None:
        lower = [share.task for share in self.shares if not share.metric.higher_is_better]
        if 0 < len(lower) < len(self.shares):
            raise UserError(
                f"aggregate: {self.aggregate} needs tasks with the same direction; lower is better for "
                f"{listed(lower)}: set their weight to 0, take another metric, or use the mean"
            )

    def combine(self, values: Array) -> Array:
        """[rows, ...] float64, the values of the tasks' parts -> [...], higher is better."""
        return self.aggregated(self.each(values))

    def each(self, values: Array) -> Array:
        """[rows, ...] -> [tasks, ...]: the (normalised) values of the tasks, in the direction of their metrics."""
        parts = np.split(values, np.cumsum([share.rows for share in self.shares])[:-1])
        return np.stack([_normalized(share, part) for share, part in zip(self.shares, parts, strict=True)])

    def aggregated(self, each: Array) -> Array:
        """[tasks, ...], as ``each`` gives them -> [...], higher is better."""
        signs = np.array([share.sign for share in self.shares])
        weights = np.array([share.weight for share in self.shares])
        return _AGGREGATES[self.aggregate](each, signs, weights / weights.sum())

    @property
    def directions(self) -> dict[str, Direction]:
        """The direction of each task, by name."""
        return {share.task: "maximize" if share.sign > 0 else "minimize" for share in self.shares}


def _normalized(share: Share, values: Array) -> Array:
    """[rows, ...] -> [...]."""
    if not share.chances:
        alone: Array = values[0]
        return alone
    chances = np.reshape(share.chances, (-1, *[1] * (values.ndim - 1)))
    adjusted: Array = np.maximum(0.0, (values - chances) / (1 - chances)).mean(axis=0)
    return adjusted


def _mean(values: Array, signs: Array, shares: Array) -> Array:
    result: Array = np.tensordot(signs * shares, values, 1)
    return result


def _min(values: Array, signs: Array, _: Array) -> Array:
    result: Array = (signs[0] * values).min(axis=0)
    return result


def _geometric_mean(values: Array, signs: Array, shares: Array) -> Array:
    with np.errstate(divide="ignore"):  # log 0 is minus infinity, whose exponential is 0 as it should be
        logs = np.log(np.maximum(values, 0.0))
    result: Array = signs[0] * np.exp(np.tensordot(shares, logs, 1))
    return result


_AGGREGATES = {"mean": _mean, "min": _min, "geometric_mean": _geometric_mean, "pareto": _mean}
