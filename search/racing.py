"""Racing: candidates are scored block by block, and one that is behind the incumbent beyond doubt is stopped.

The incumbent is the best candidate that was scored in full. After the baselines are scored, the items of each task are
put in one order for the rest of the run, at random, with the items on which the baselines differ drawn earlier and more
often (see ``sequential``). A candidate that is truly better than the incumbent on the search items is dropped with a
probability of at most ``error``, over the draw of that order and for all blocks together. That is promised for each
candidate by itself, and for one that was chosen without regard to the order.

An objective that is no weighted sum is replaced by its tangent at the incumbent. A concave one (a minimum, a geometric
mean) lies below its tangent, so that a candidate that is better has a tangent above zero, and the promise holds for it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import log

import numpy as np
import torch
from torch import Tensor

from mergesearch.evaluators import Item
from mergesearch.search.config import Racing
from mergesearch.search.job import Job
from mergesearch.search.sequential import Array, Draws, Lane, estimate, log_evidence
from mergesearch.search.tasks import Scores, Task
from mergesearch.seeds import derive

FEWEST = 64
"""Items that a race must have to be worth its blocks."""
FEWEST_OF_A_TASK = 16
"""Items below which a task is scored in full in the first block."""
GROWTH = 0.15
"""What each block adds to the items scored before it. Looking often costs nothing but smaller batches."""
SLACK = 1.5
"""How far beyond the baselines' range on an item an unbounded score is trusted to go."""
STEP = 1e-6

Score = Callable[[Task, Sequence[Item]], Tensor]


@dataclass(frozen=True)
class Track:
    """A task whose items are raced: their draws, the baselines' scores, and how far a score can go.

    baselines: [baselines, items], contributions. ``limits``: what scores lie between, where that is known.
    """

    task: Task
    draws: Draws
    baselines: Array
    weights: Array

    @cached_property
    def limits(self) -> tuple[float, float] | None:
        return unit(self.baselines)

    def lane(self, gradient: float, incumbent: Array, seen: Array) -> Lane:
        """The candidate's course; seen: [drawn], its contributions in the order of the draws."""
        shares = gradient * self.weights / self.weights.sum()
        order = self.draws.order
        ceilings = np.maximum(*(shares * reach for reach in self._reach(incumbent)))
        return Lane(self.draws, (shares[order[: len(seen)]] * (seen - incumbent[order[: len(seen)]])), ceilings[order])

    def _reach(self, incumbent: Array) -> tuple[Array, Array]:
        """How far down and up from the incumbent's score a candidate's can be."""
        if self.limits:
            return self.limits[0] - incumbent, self.limits[1] - incumbent
        return -SLACK * breadth(self.baselines), SLACK * breadth(self.baselines)

    def value(self, rounds: int, incumbent: Array, seen: Array) -> float:
        """The task's value, estimated from the drawn items."""
        predictions = np.stack([incumbent, self.baselines.mean(0)])
        value = estimate(self.draws, rounds, seen, predictions, self.weights)
        return float(np.clip(value, *self.limits)) if self.limits else value


@dataclass(frozen=True)
class Course:
    """What all candidates of a run have in common: tasks that are raced, tasks that are not, and the blocks.

    blocks: the rounds after which a candidate is looked at, the last one excepted.
    """

    tracks: Sequence[Track]
    whole: Sequence[Task]
    blocks: Sequence[int]
    rounds: int
    error: float

    @property
    def described(self) -> str:
        """What the run says of it."""
        if not self.tracks:
            return "racing: off, every candidate is scored in full: too few items, or no task is a mean over its items"
        count = sum(len(track.weights) for track in self.tracks)
        full = f"; in full: {', '.join(task.name for task in self.whole)}" if self.whole else ""
        return f"racing: up to {len(self.blocks) + 1} blocks over {count} items{full}"


@dataclass(frozen=True)
class Result:
    """What a candidate got: per-item scores of each task with their items, and the tasks' values.

    Where it was stopped the scores are those of some items and the values are estimates.
    """

    scores: Scores
    items: dict[str, list[Item]]
    values: dict[str, float]
    stopped: bool = False

    @property
    def count(self) -> int:
        return sum(map(len, self.items.values()))


def whole_result(job: Job, scores: Scores) -> Result:
    """Of a candidate that was scored on all search items."""
    items = {task.name: list(task.search) for task in job.searched}
    return Result(scores, items, job.values("search", scores))


def set_course(job: Job, baselines: Sequence[Scores], racing: Racing, seed: int) -> Course:
    """The course after the baselines were scored; their contributions decide which items are drawn early.

    Tasks that count in constraints alone are no part of the race, and are scored in full.
    """
    tasks, counted = job.searched, job.tasks_of("search")
    distinct = {task.name: _distinct(task, baselines) for task in counted}
    raced = [task for task in counted if _can_be_raced(task, distinct[task.name], baselines[0])]
    if sum(len(task.search) for task in raced) < FEWEST:
        return Course([], tasks, [], 0, racing.error)
    rounds = min(len(task.search) for task in raced)
    tracks = [_track(task, distinct[task.name], rounds, derive(seed, "race", task.name)) for task in raced]
    total = sum(len(task.search) for task in raced)
    blocks = _blocks(rounds, racing.first_block / total)
    return Course(tracks, [task for task in tasks if task not in raced], blocks, rounds, racing.error)


def _distinct(task: Task, baselines: Sequence[Scores]) -> Array:
    """[baselines, items]: the baselines' contributions to a task, equal ones once."""
    return np.unique([_contributions(task, scores[task.name]) for scores in baselines], axis=0)


def _contributions(task: Task, scores: Tensor) -> Array:
    return np.asarray(task.contributions("search", scores).numpy(), dtype=np.float64)


def _can_be_raced(task: Task, baselines: Array, scores: Scores) -> bool:
    """Whether the task has enough items, is a mean over them, and says how far a score can go."""
    bounded = unit(baselines) is not None or np.ptp(baselines, axis=0).max() > 0
    return len(task.search) >= FEWEST_OF_A_TASK and bounded and _is_mean(task, scores)


def _is_mean(task: Task, scores: Scores) -> bool:
    """Whether an item adds the same to the value whichever others are scored; tried out on half of them."""
    half = len(task.search) // 2
    ours = task.evaluator.contributions(task.search[:half], scores[task.name][:half])
    return torch.allclose(ours, task.contributions("search", scores[task.name])[:half], rtol=1e-9, atol=1e-12)


def unit(scores: Array) -> tuple[float, float] | None:
    """(0, 1) where all scores lie there, as those of accuracies do."""
    return (0.0, 1.0) if scores.min() >= 0 and scores.max() <= 1 else None


def _track(task: Task, baselines: Array, rounds: int, seed: int) -> Track:
    weights = np.array([item.weight for item in task.search])
    rates = weights * spread(baselines, task.evaluator.metric.higher_is_better)
    return Track(task, Draws.of(rates, rounds, seed), baselines, weights)


def breadth(baselines: Array) -> Array:
    """[items]: the baselines' range on each item, or the mean range where that is wider."""
    ranges = np.ptp(baselines, axis=0)
    return np.asarray(np.maximum(ranges, ranges.mean()))


def spread(baselines: Array, higher_is_better: bool) -> Array:
    """[items], positive: how early each item is wanted, from the baselines' scores, [baselines, items].

    The standard deviation over candidates is the best rate for an estimate (Neyman 1934); a test wants its ceilings in
    proportion to the rates. For scores between 0 and 1 it is √(p (1 − p)), with p shrunk to the task's mean by one
    imagined baseline, times the room 1 − p for a gain: what all get right can only be lost, and what may still be won
    is what keeps a race open. For others it is the range, with which the ceiling goes.
    """
    if not unit(baselines):
        return breadth(baselines)
    p = (baselines.sum(0) + np.clip(baselines.mean(), 0.02, 0.98)) / (len(baselines) + 1)
    return np.asarray(np.sqrt(p * (1 - p)) * (1 - p if higher_is_better else p))


def _blocks(rounds: int, first: float) -> list[int]:
    """Rounds after which to look, from a first share of the items on."""
    ends: list[int] = []
    share = first
    while (end := max(1, round(share * rounds))) < rounds:
        ends += [end] if not ends or end > ends[-1] else []
        share *= 1 + GROWTH
    return ends


def run_race(job: Job, course: Course, incumbent: Scores, score: Score) -> Result:
    """Scores a candidate block by block until it is out, or complete."""
    race = _Race(job, course, incumbent)
    race.score_whole(score)
    begin = 0
    for end in course.blocks:
        race.score_rounds(score, begin, end)
        if race.is_lost(end):
            return race.result(end)
        begin = end
    race.score_rounds(score, begin, course.rounds)
    return race.result(None)


class _Race:
    def __init__(self, job: Job, course: Course, incumbent: Scores) -> None:
        self._job = job
        self._course = course
        self._incumbent = {task.name: _contributions(task, incumbent[task.name]) for task in job.searched}
        self._values = {task.name: task.value("search", incumbent[task.name]) for task in job.searched}
        self._seen: dict[str, dict[int, Tensor]] = {task.name: {} for task in job.searched}
        counted = [task.name for task in job.tasks_of("search")]
        slopes = gradient(job.objective_of("search").combine, [self._values[name] for name in counted])
        self._gradients = dict.fromkeys(self._values, 0.0) | dict(zip(counted, slopes.tolist(), strict=True))

    def score_whole(self, score: Score) -> None:
        """The tasks that are not raced."""
        for task in self._course.whole:
            self._score(score, task, range(len(task.search)))

    def score_rounds(self, score: Score, begin: int, end: int) -> None:
        for track in self._course.tracks:
            self._score(score, track.task, sorted(track.draws.drawn(begin, end).tolist()))

    def _score(self, score: Score, task: Task, numbers: Sequence[int]) -> None:
        found = score(task, [task.search[number] for number in numbers])
        self._seen[task.name].update(zip(numbers, found, strict=True))

    def is_lost(self, rounds: int) -> bool:
        """Whether the evidence against the candidate reaches 1 / error."""
        lanes = [
            track.lane(self._gradients[track.task.name], self._incumbent[track.task.name], self._drawn(track, rounds))
            for track in self._course.tracks
        ]
        if any(lane.broken for lane in lanes):
            return False
        known = sum(self._gradients[task.name] * self._gain(task) for task in self._course.whole)
        return log_evidence(lanes, rounds, known) >= -log(self._course.error)

    def _gain(self, task: Task) -> float:
        return task.value("search", self._scores(task.name)) - self._values[task.name]

    def _drawn(self, track: Track, rounds: int) -> Array:
        """[drawn]: contributions in the order of the draws."""
        name, numbers = track.task.name, track.draws.drawn(0, rounds).tolist()
        scores = torch.stack([self._seen[name][number] for number in numbers])
        items = [track.task.search[number] for number in numbers]
        return np.asarray(track.task.evaluator.contributions(items, scores).numpy(), dtype=np.float64)

    def _scores(self, name: str) -> Tensor:
        """Of the items scored so far, in the split's order."""
        return torch.stack([self._seen[name][number] for number in sorted(self._seen[name])])

    def result(self, stopped_at: int | None) -> Result:
        tasks = {task.name: task for task in self._job.searched}
        items = {name: [tasks[name].search[number] for number in sorted(self._seen[name])] for name in tasks}
        scores = {name: self._scores(name) for name in tasks}
        values = {name: tasks[name].value("search", scores[name]) for name in tasks if stopped_at is None}
        return Result(scores, items, values or self._estimates(stopped_at or 0), stopped_at is not None)

    def _estimates(self, rounds: int) -> dict[str, float]:
        whole = {task.name: task.value("search", self._scores(task.name)) for task in self._course.whole}
        raced = {
            track.task.name: track.value(rounds, self._incumbent[track.task.name], self._drawn(track, rounds))
            for track in self._course.tracks
        }
        return {name: {**whole, **raced}[name] for name in self._values}


def gradient(combine: Callable[[Array], Array], values: Sequence[float]) -> Array:
    """[tasks]: how the objective changes with each task's value, by central differences."""
    steps = STEP * np.eye(len(values))
    centre = np.array(values)[:, None]
    return np.asarray((combine(centre + steps) - combine(centre - steps)) / (2 * STEP))
