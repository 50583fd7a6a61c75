"""What a search maximises: one number from the values of its tasks, or several."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mergesearch.errors import UserError, listed
from mergesearch.evaluators import Metric

Array = NDArray[np.float64]
Aggregation = Literal["mean", "min", "geometric_mean", "pareto"]
Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Share:
    """One task's part in the objective.

    ``chances``: what guessing scores in each part of the task (a group has its subtasks, most tasks are one part),
    where its values are to be normalised by that; none where its value counts as it is.
    """

    task: str
    weight: float
    metric: Metric
    chances: Sequence[float] = ()

    @property
    def rows(self) -> int:
        """How many values the objective takes of the task."""
        return len(self.chances) or 1

    @property
    def sign(self) -> float:
        return 1.0 if self.metric.higher_is_better else -1.0


@dataclass(frozen=True)
class Objective:
    """The tasks' values, normalised where asked, as one number, of which more is better.

    ``mean``: by weight, values that are better when lower with their sign turned. ``min``: the worst task's value.
    ``geometric_mean``: by weight, values below 0 counted as 0. For the latter two the tasks must be better in one
    direction; where that is down, the number is minus the highest value, or minus the geometric mean. ``pareto``: each
    task is an objective of its own (``each``); the one number, by which a winner is picked among candidates that no
    other beats in all, is the same as for ``mean``.

    Normalised is max(0, (value − chance) / (1 − chance)), task by task before any aggregation, and in a group subtask
    by subtask before their plain mean, as the Open LLM Leaderboard 2 does
    (huggingface.co/docs/leaderboards/open_llm_leaderboard/normalization), in [0, 1] and not in %.

    Raises UserError, which names the tasks, for what cannot be combined so.
    """

    shares: Sequence[Share]
    aggregate: Aggregation = "mean"

    def __post_init__(self) -> None:
        for share in self.shares:
            if share.chances and not share.metric.higher_is_better:
                raise UserError(
                    f"normalize: task {share.task!r} is scored by {share.metric.name}, of which less is better; "
                    "only scores from chance to 1 can be normalised: say normalize: none for it"
                )
        if self.aggregate == "pareto" and len(self.shares) < 2:
            named = listed(share.task for share in self.shares)
            raise UserError(f"aggregate: pareto needs two tasks of a weight above 0 at least, found {named}")
        if self.aggregate in ("min", "geometric_mean"):
            self._check_directions()
        if self.aggregate == "min" and len({share.weight for share in self.shares}) > 1:
            weights = listed(f"{share.task} {share.weight:g}" for share in self.shares)
            raise UserError(f"aggregate: the minimum over tasks takes no weights but 0 and 1, found {weights}")

    def _check_directions(self) -> None:
        lower = [share.task for share in self.shares if not share.metric.higher_is_better]
        if 0 < len(lower) < len(self.shares):
            raise UserError(
                f"aggregate: {self.aggregate} needs tasks that are all better when higher, or all when lower; "
                f"lower is better for {listed(lower)}: give these weight 0, another metric, or use the mean"
            )

    def combine(self, values: Array) -> Array:
        """[rows, ...] float64, the values of tasks' parts, of candidates or resamples -> [...], higher is better."""
        return self.aggregated(self.each(values))

    def each(self, values: Array) -> Array:
        """[rows, ...] -> [tasks, ...]: normalised where asked; higher is better where the metric says so."""
        parts = np.split(values, np.cumsum([share.rows for share in self.shares])[:-1])
        return np.stack([_normalized(share, part) for share, part in zip(self.shares, parts, strict=True)])

    def aggregated(self, each: Array) -> Array:
        """[tasks, ...], as ``each`` gives them -> [...], higher is better."""
        signs = np.array([share.sign for share in self.shares])
        weights = np.array([share.weight for share in self.shares])
        return _AGGREGATES[self.aggregate](each, signs, weights / weights.sum())

    @property
    def directions(self) -> dict[str, Direction]:
        """Which way each task's value is better, by the task's name."""
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
