"""The race plan of a run: which tasks are raced, the order of their items, and the blocks."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from mergesearch.search.config.search import Racing
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.problem.tasks import Scores, Task
from mergesearch.search.scoring.racing.betting_test import Draws, Ints, estimate
from mergesearch.search.scoring.racing.predict import GainPredictor, Prediction
from mergesearch.search.statistics import Array
from mergesearch.seeds import derive

FEWEST = 64
"""The fewest items for which racing pays."""
FEWEST_OF_A_TASK = 16
"""A task with fewer items is scored in full in the first block."""
FIRST_PREDICTION = 8
"""The number of draws after which gains are first predicted from a candidate's own scores."""
MOST_FLOORS = 6
"""The most tasks with a floor at chance that are raced: each doubles the linear bounds that must all be rejected."""
UNBOUNDED = 1e6
"""The ceiling of unbounded scores before the first prediction, in the baselines' range; so high that no bet is made."""
GROWTH = 0.15
"""The size of a block as a fraction of the items scored before it. Small blocks cost nothing but smaller batches."""


@dataclass(frozen=True)
class RacedTask:
    """A task whose items are raced, with the baselines' scores.

    begin: the index of its first item among the items of all raced tasks; baselines: [baselines, items], contributions;
    weights: [items].
    """

    task: Task
    begin: int
    baselines: Array
    weights: Array

    @cached_property
    def bounds(self) -> tuple[float, float] | None:
        """The bounds of its scores; None where they are unbounded."""
        return unit(self.baselines)

    @property
    def span(self) -> slice:
        """The indices of its items among the items of all raced tasks."""
        return slice(self.begin, self.begin + len(self.weights))

    @property
    def shares(self) -> Array:
        """[items]: the weight of each item's score in the task's value; the sum is 1."""
        return np.asarray(self.weights / self.weights.sum())

    @cached_property
    def predictor(self) -> GainPredictor:
        return GainPredictor(self.baselines)

    def predict(self, incumbent: Array, seen: Ints, scores: Array) -> Prediction:
        """Predicts candidate − incumbent for each item, from the ``scores`` of the ``seen`` items."""
        if self.bounds:
            return Prediction(0 * incumbent, incumbent - self.bounds[0], self.bounds[1] - incumbent)
        if not len(seen):
            unknown = np.full(len(incumbent), UNBOUNDED * breadth(self.baselines))
            return Prediction(0 * incumbent, unknown, unknown)
        return self.predictor.predict(incumbent, seen, scores - incumbent[seen])

    def value(self, inclusion: Array, incumbent: Array, seen: Ints, scores: Array) -> float:
        """An estimate of the task's value from the ``seen`` items and their inclusion probabilities."""
        expected = self.predictor.predict(incumbent, seen, scores - incumbent[seen]).expected
        value = estimate(seen, inclusion, scores, incumbent + expected, self.weights)
        return float(np.clip(value, *self.bounds)) if self.bounds else value


@dataclass(frozen=True)
class RacePlan:
    """What all races of a run have in common: the raced tasks, those scored in full, the item order and the blocks.

    blocks: the numbers of draws after which a candidate is tested, without the last; error: the probability of dropping
    a better candidate.
    """

    raced_tasks: Sequence[RacedTask]
    in_full: Sequence[Task]
    draws: Draws
    blocks: Sequence[int]
    error: float

    @cached_property
    def prediction_draws(self) -> list[int]:
        """The draws at which the gains of the remaining items are predicted anew."""
        uses_predictions = any(raced_task.bounds is None for raced_task in self.raced_tasks)
        return [0, *(_blocks(len(self.draws.order), FIRST_PREDICTION) if uses_predictions else [])]

    @property
    def described(self) -> str:
        """One line for the user."""
        if not self.raced_tasks:
            return (
                "racing: off, every candidate is scored in full: too few items, or no task is a mean over its items, "
                "or scores of subtasks are normalised one by one"
            )
        full = f"; in full: {', '.join(task.name for task in self.in_full)}" if self.in_full else ""
        return f"racing: up to {len(self.blocks) + 1} blocks over {len(self.draws.order)} items{full}"


def plan_race(tasks: TaskSet, baselines: Sequence[Scores], racing: Racing, seed: int) -> RacePlan:
    """Plans the race from the scores of the baselines, which decide the items that are drawn early.

    Tasks that only constraints use are not raced: they are scored in full.
    """
    searched, counted = tasks.searched, tasks.counted("search")
    distinct = {task.name: _distinct(task, baselines) for task in counted}
    raced = _few_floors([task for task in counted if _can_be_raced(task, distinct[task.name], baselines[0])])
    if sum(len(task.search) for task in raced) < FEWEST:
        return RacePlan([], searched, Draws.of(np.zeros(0), 0), [], racing.error)
    begins = np.cumsum([0, *(len(task.search) for task in raced)]).tolist()
    raced_tasks = [_raced_task(task, begin, distinct[task.name]) for task, begin in zip(raced, begins, strict=False)]
    draws = Draws.of(np.concatenate([_rates(raced_task) for raced_task in raced_tasks]), derive(seed, "race"))
    in_full = [task for task in searched if task not in raced]
    return RacePlan(raced_tasks, in_full, draws, _blocks(begins[-1], racing.first_block), racing.error)


def _distinct(task: Task, baselines: Sequence[Scores]) -> Array:
    """[baselines, items]: the distinct rows of the baselines' contributions to a task."""
    return np.unique([contributions(task, scores[task.name]) for scores in baselines], axis=0)


def contributions(task: Task, scores: Tensor) -> Array:
    """[items]: what each search item contributes to the task's value."""
    return np.asarray(task.contributions("search", scores).numpy(), dtype=np.float64)


def _can_be_raced(task: Task, baselines: Array, scores: Scores) -> bool:
    """Whether the task has enough items, is a mean over them, and has scores whose range is known or visible."""
    bounded = unit(baselines) is not None or np.ptp(baselines, axis=0).max() > 0
    return len(task.search) >= FEWEST_OF_A_TASK and bounded and _is_mean(task, scores)


def _is_mean(task: Task, scores: Scores) -> bool:
    """Whether an item's contribution is independent of which others are scored; tested on half of the items.

    A group whose subtasks are normalised one by one has several values, and is not a mean.
    """
    half = len(task.search) // 2
    ours = task.evaluator.contributions(task.search[:half], scores[task.name][:half])
    alike = torch.allclose(ours, task.contributions("search", scores[task.name])[:half], rtol=1e-9, atol=1e-12)
    return alike and task.share("search").rows == 1


def _few_floors(tasks: Sequence[Task]) -> list[Task]:
    """Leaves out the smallest of the tasks with a floor at chance where there are too many of them."""
    floored = sorted((task for task in tasks if task.normalize), key=lambda task: -len(task.search))
    return [task for task in tasks if task not in floored[MOST_FLOORS:]]


def unit(scores: Array) -> tuple[float, float] | None:
    """(0, 1) where all scores lie between and some reach an end, as accuracies do; None for others (bits per byte)."""
    low, high = scores.min(), scores.max()
    return (0.0, 1.0) if low >= 0 and high <= 1 and (low == 0 or high == 1) else None


def _raced_task(task: Task, begin: int, baselines: Array) -> RacedTask:
    return RacedTask(task, begin, baselines, np.array([item.weight for item in task.search]))


def _rates(raced_task: RacedTask) -> Array:
    """[items]: the sampling rates, scaled by the task's weight in the objective."""
    share = raced_task.task.share("search")
    slope = share.weight / (1 - share.chances[0]) if share.chances else share.weight
    higher = raced_task.task.evaluator.metric.higher_is_better
    return (
        slope
        * raced_task.shares
        * (spread(raced_task.baselines, higher) if raced_task.bounds else raced_task.predictor.noise)
    )


def breadth(baselines: Array) -> float:
    """The mean over items of the baselines' range."""
    return float(np.ptp(baselines, axis=0).mean())


def spread(baselines: Array, higher_is_better: bool) -> Array:
    """[items], positive: the sampling rate of each item, from the baselines' scores between 0 and 1.

    For an estimate, the standard deviation over candidates is the optimal rate (Neyman 1934); for the test, ceilings
    should be proportional to the rates. The rate is √(p (1 − p)) · (1 − p), with p the baselines' mean, shrunk to the
    task's by one pseudo-baseline: an item that all baselines answer correctly leaves no room for a gain.
    """
    p = (baselines.sum(0) + np.clip(baselines.mean(), 0.02, 0.98)) / (len(baselines) + 1)
    return np.asarray(np.sqrt(p * (1 - p)) * (1 - p if higher_is_better else p))


def _blocks(items: int, first: int) -> list[int]:
    """The numbers of draws after which a candidate is tested, beginning with ``first``."""
    ends: list[int] = []
    count = float(first)
    while (end := round(count)) < items:
        ends += [end] if not ends or end > ends[-1] else []
        count *= 1 + GROWTH
    return ends
