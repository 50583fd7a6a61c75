"""What the candidates of a run are raced over: tasks, the order of their items, and the blocks."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from mergesearch.search.config import Racing
from mergesearch.search.problem.problem import Job
from mergesearch.search.problem.tasks import Scores, Task
from mergesearch.search.scoring.racing.betting_test import Array, Draws, Ints, estimate
from mergesearch.search.scoring.racing.predict import Forecast, Forecaster
from mergesearch.seeds import derive

FEWEST = 64
"""Items that a race must have to be worth its blocks."""
FEWEST_OF_A_TASK = 16
"""Items below which a task is scored in full in the first block."""
FEWEST_TO_FORETELL = 8
"""Items of a candidate from which the others are foretold."""
MOST_FLOORS = 6
"""Tasks floored at chance that are raced; each doubles the lines that a candidate must be lost on."""
UNKNOWN = 1e6
"""How far a score without bounds may go while nothing is known of the candidate, in the baselines' range: no bet."""
GROWTH = 0.15
"""What each block adds to the items scored before it. Looking often costs nothing but smaller batches."""


@dataclass(frozen=True)
class Track:
    """A task whose items are raced, and the baselines' scores of them.

    begin: its first place among the items of all tasks; baselines: [baselines, items], contributions; weights: [items].
    """

    task: Task
    begin: int
    baselines: Array
    weights: Array

    @cached_property
    def limits(self) -> tuple[float, float] | None:
        """What scores lie between, where that is known."""
        return unit(self.baselines)

    @property
    def places(self) -> slice:
        """Its places among the items of all tasks."""
        return slice(self.begin, self.begin + len(self.weights))

    @property
    def shares(self) -> Array:
        """[items]: what a unit of each item's score counts in the task's value."""
        return np.asarray(self.weights / self.weights.sum())

    @cached_property
    def forecaster(self) -> Forecaster:
        return Forecaster(self.baselines)

    def forecast(self, incumbent: Array, seen: Ints, scores: Array) -> Forecast:
        """Of candidate − incumbent, item by item, from the scores of the items ``seen``."""
        if self.limits:
            return Forecast(0 * incumbent, incumbent - self.limits[0], self.limits[1] - incumbent)
        if not len(seen):
            unknown = np.full(len(incumbent), UNKNOWN * breadth(self.baselines))
            return Forecast(0 * incumbent, unknown, unknown)
        return self.forecaster.forecast(incumbent, seen, scores - incumbent[seen])

    def value(self, inclusion: Array, incumbent: Array, seen: Ints, scores: Array) -> float:
        """The task's value, estimated from the items ``seen``, which were seen with these chances."""
        expected = self.forecaster.forecast(incumbent, seen, scores - incumbent[seen]).expected
        value = estimate(seen, inclusion, scores, incumbent + expected, self.weights)
        return float(np.clip(value, *self.limits)) if self.limits else value


@dataclass(frozen=True)
class Course:
    """What all candidates of a run have in common: tasks that are raced, tasks that are not, and the blocks.

    blocks: the counts of draws after which a candidate is looked at, the last one excepted.
    """

    tracks: Sequence[Track]
    whole: Sequence[Task]
    draws: Draws
    blocks: Sequence[int]
    error: float

    @cached_property
    def settled(self) -> list[int]:
        """The draws at which what to expect of the rest is settled anew: the first alone where nothing is foretold."""
        foretold = any(track.limits is None for track in self.tracks)
        return [0, *(_blocks(len(self.draws.order), FEWEST_TO_FORETELL) if foretold else [])]

    @property
    def described(self) -> str:
        """What the run says of it."""
        if not self.tracks:
            return (
                "racing: off, every candidate is scored in full: too few items, or no task is a mean over its items, "
                "or scores of subtasks are normalised one by one"
            )
        full = f"; in full: {', '.join(task.name for task in self.whole)}" if self.whole else ""
        return f"racing: up to {len(self.blocks) + 1} blocks over {len(self.draws.order)} items{full}"


def set_course(job: Job, baselines: Sequence[Scores], racing: Racing, seed: int) -> Course:
    """The course after the baselines were scored; their contributions decide which items are drawn early.

    Tasks that count in constraints alone are no part of the race, and are scored in full.
    """
    tasks, counted = job.searched, job.tasks_of("search")
    distinct = {task.name: _distinct(task, baselines) for task in counted}
    raced = _few_floors([task for task in counted if _can_be_raced(task, distinct[task.name], baselines[0])])
    if sum(len(task.search) for task in raced) < FEWEST:
        return Course([], tasks, Draws.of(np.zeros(0), 0), [], racing.error)
    begins = np.cumsum([0, *(len(task.search) for task in raced)]).tolist()
    tracks = [_track(task, begin, distinct[task.name]) for task, begin in zip(raced, begins, strict=False)]
    draws = Draws.of(np.concatenate([_rates(track) for track in tracks]), derive(seed, "race"))
    whole = [task for task in tasks if task not in raced]
    return Course(tracks, whole, draws, _blocks(begins[-1], racing.first_block), racing.error)


def _distinct(task: Task, baselines: Sequence[Scores]) -> Array:
    """[baselines, items]: the baselines' contributions to a task, equal ones once."""
    return np.unique([contributions(task, scores[task.name]) for scores in baselines], axis=0)


def contributions(task: Task, scores: Tensor) -> Array:
    return np.asarray(task.contributions("search", scores).numpy(), dtype=np.float64)


def _can_be_raced(task: Task, baselines: Array, scores: Scores) -> bool:
    """Whether the task has enough items, is a mean over them, and says how far a score can go."""
    bounded = unit(baselines) is not None or np.ptp(baselines, axis=0).max() > 0
    return len(task.search) >= FEWEST_OF_A_TASK and bounded and _is_mean(task, scores)


def _is_mean(task: Task, scores: Scores) -> bool:
    """Whether an item adds the same to what the objective takes whichever others are scored; tried on half of them.

    Of subtasks that are normalised one by one the objective takes several values.
    """
    half = len(task.search) // 2
    ours = task.evaluator.contributions(task.search[:half], scores[task.name][:half])
    alike = torch.allclose(ours, task.contributions("search", scores[task.name])[:half], rtol=1e-9, atol=1e-12)
    return alike and task.share("search").rows == 1


def _few_floors(tasks: Sequence[Task]) -> list[Task]:
    """Without the smallest of those that are floored at chance where these are too many."""
    floored = sorted((task for task in tasks if task.normalize), key=lambda task: -len(task.search))
    return [task for task in tasks if task not in floored[MOST_FLOORS:]]


def unit(scores: Array) -> tuple[float, float] | None:
    """(0, 1) where all scores lie there and some at an end, as those of accuracies do, and bits per byte do not."""
    low, high = scores.min(), scores.max()
    return (0.0, 1.0) if low >= 0 and high <= 1 and (low == 0 or high == 1) else None


def _track(task: Task, begin: int, baselines: Array) -> Track:
    return Track(task, begin, baselines, np.array([item.weight for item in task.search]))


def _rates(track: Track) -> Array:
    """[items]: how early each is wanted, by what it counts in the objective."""
    share = track.task.share("search")
    slope = share.weight / (1 - share.chances[0]) if share.chances else share.weight
    higher = track.task.evaluator.metric.higher_is_better
    return slope * track.shares * (spread(track.baselines, higher) if track.limits else track.forecaster.noise)


def breadth(baselines: Array) -> float:
    """The baselines' mean range on an item."""
    return float(np.ptp(baselines, axis=0).mean())


def spread(baselines: Array, higher_is_better: bool) -> Array:
    """[items], positive: how early each item is wanted, from the baselines' scores between 0 and 1.

    The standard deviation over candidates is the best rate for an estimate (Neyman 1934); a test wants its ceilings in
    proportion to the rates. Here it is √(p (1 − p)), with p shrunk to the task's mean by one imagined baseline, times
    the room 1 − p for a gain: what all get right can only be lost, and what may still be won is what keeps a race open.
    """
    p = (baselines.sum(0) + np.clip(baselines.mean(), 0.02, 0.98)) / (len(baselines) + 1)
    return np.asarray(np.sqrt(p * (1 - p)) * (1 - p if higher_is_better else p))


def _blocks(items: int, first: int) -> list[int]:
    """Counts of draws after which to look, from a first one on."""
    ends: list[int] = []
    count = float(first)
    while (end := round(count)) < items:
        ends += [end] if not ends or end > ends[-1] else []
        count *= 1 + GROWTH
    return ends
