"""Racing: candidates are scored block by block, and one that is behind the incumbent beyond doubt is stopped.

The incumbent is the best candidate that was scored in full. After the baselines are scored, the items of all tasks are
put in one order for the rest of the run, at random, with the items on which the baselines differ drawn earlier and more
often (see ``sequential``). A candidate that is truly better than the incumbent on the search items is dropped with a
probability of at most ``error``, over the draw of that order and for all blocks together. That is promised for each
candidate by itself, and for one that was chosen without regard to the order. Of scores without bounds it is promised
as long as no item that was not drawn yet surprises more than ``SLACK`` times as much as the largest surprise so far
(see ``forecast``); a candidate that is caught at that is raced no more.

An objective that is no weighted sum is replaced by its tangent at the incumbent. A concave one (a minimum, a geometric
mean) lies below its tangent, so that a candidate that is better has a tangent above zero, and the promise holds for it.
A value that is floored at chance is the higher one of two lines; a candidate is stopped where it is lost on both.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import log

import numpy as np
import torch
from torch import Tensor

from mergesearch.evaluators import Item
from mergesearch.search.problem.objective import Share
from mergesearch.search.problem.problem import Job
from mergesearch.search.problem.tasks import Scores, Task
from mergesearch.search.scoring.racing.betting_test import Array, Duel, Ints, Stage
from mergesearch.search.scoring.racing.plan import Course, Track, contributions
from mergesearch.search.scoring.racing.predict import Forecast

STEP = 1e-6

Score = Callable[[Task, Sequence[Item]], Tensor]


@dataclass(frozen=True)
class Result:
    """What a candidate got: per-item scores of each task with their items, and the tasks' values.

    Where it was stopped the scores are those of some items, the values are estimates, and so is the objective,
    ``estimate``.
    """

    scores: Scores
    items: dict[str, list[Item]]
    values: dict[str, float]
    stopped: bool = False
    estimate: float | None = None

    @property
    def count(self) -> int:
        return sum(map(len, self.items.values()))


def whole_result(job: Job, scores: Scores) -> Result:
    """Of a candidate that was scored on all search items."""
    items = {task.name: list(task.search) for task in job.searched}
    return Result(scores, items, job.values("search", scores))


def run_race(job: Job, course: Course, incumbent: Scores, score: Score) -> Result:
    """Scores a candidate block by block until it is out, or complete."""
    race = _Race(job, course, incumbent)
    race.score_whole(score)
    begin = 0
    for end in course.blocks:
        race.score_draws(score, begin, end)
        race.foresee(begin, end)
        if race.is_lost(end):
            return race.result(end)
        begin = end
    race.score_draws(score, begin, len(course.draws.order))
    return race.result(None)


class _Race:
    def __init__(self, job: Job, course: Course, incumbent: Scores) -> None:
        self._job = job
        self._course = course
        self._objective = job.objective_of("search")
        self._incumbent = {task.name: contributions(task, incumbent[task.name]) for task in job.searched}
        self._seen: dict[str, dict[int, Tensor]] = {task.name: {} for task in job.searched}
        self._forecasts: list[tuple[int, Forecast]] = []
        counted = job.tasks_of("search")
        rows = {task.name: task.values("search", incumbent[task.name]) for task in counted}
        self._each = self._objective.each(_flat(rows))
        slopes = gradient(self._objective.aggregated, self._each)
        self._slopes = dict(zip(rows, slopes.tolist(), strict=True))
        shares = {share.task: share for share in self._objective.shares}
        self._lines = [
            lines(shares[track.task.name], rows[track.task.name][0], self._slopes[track.task.name])
            for track in course.tracks
        ]

    def score_whole(self, score: Score) -> None:
        """The tasks that are not raced."""
        for task in self._course.whole:
            self._score(score, task, range(len(task.search)))

    def score_draws(self, score: Score, begin: int, end: int) -> None:
        for track in self._course.tracks:
            numbers = self._numbers(track, begin, end).tolist()
            if numbers:
                self._score(score, track.task, numbers)

    def _numbers(self, track: Track, begin: int, end: int) -> Ints:
        """The track's items among these draws, ascending."""
        drawn = np.sort(self._course.draws.order[begin:end])
        return np.asarray(drawn[(drawn >= track.places.start) & (drawn < track.places.stop)] - track.begin)

    def _score(self, score: Score, task: Task, numbers: Sequence[int]) -> None:
        found = score(task, [task.search[number] for number in numbers])
        self._seen[task.name].update(zip(numbers, found, strict=True))

    def foresee(self, begin: int, end: int) -> None:
        """What was expected of these draws: settled anew at some of them, each time by what was drawn before."""
        for start in self._course.settled:
            if begin <= start < end:
                self._forecasts.append((start, self._forecast(start)))

    def _forecast(self, start: int) -> Forecast:
        tracks = self._course.tracks
        found = [track.forecast(self._incumbent[track.task.name], *self._drawn(track, start)) for track in tracks]
        return Forecast.joined(found, [track.shares for track in tracks])

    def is_lost(self, count: int) -> bool:
        """Whether the evidence against the candidate reaches 1 / error on every line that its value may lie on."""
        gains = np.concatenate([self._gains(track, count) for track in self._course.tracks])
        known = self._known()
        return all(self._is_lost(count, gains, known, chosen) for chosen in product(*self._lines))

    def _is_lost(self, count: int, gains: Array, known: float, chosen: Sequence[tuple[float, float]]) -> bool:
        """chosen: of each track a line's slope and constant."""
        order = self._course.draws.order
        sizes = [len(track.weights) for track in self._course.tracks]
        slopes = np.repeat([slope for slope, _ in chosen], sizes)[order]
        stages = [Stage(begin, *forecast.ordered(order, slopes)) for begin, forecast in self._forecasts]
        beyond = known + sum(constant for _, constant in chosen)
        duel = Duel(self._course.draws, slopes[:count] * gains[order[:count]], stages, beyond)
        return not duel.broken and duel.log_evidence >= -log(self._course.error)

    def _gains(self, track: Track, count: int) -> Array:
        """[items]: what each item that was seen adds to the task's value; 0 for the others."""
        found = np.zeros(len(track.weights))
        seen, scores = self._drawn(track, count)
        found[seen] = track.shares[seen] * (scores - self._incumbent[track.task.name][seen])
        return found

    def _known(self) -> float:
        """What the tasks that are not raced add to the difference."""
        whole = {task.name for task in self._course.whole}
        rows = {share.task: [0.0] * share.rows for share in self._objective.shares}
        rows |= {name: values for name, values in self._whole_values().items() if name in rows}
        gains = dict(zip(rows, self._objective.each(_flat(rows)) - self._each, strict=True))
        return float(sum(self._slopes[name] * gain for name, gain in gains.items() if name in whole))

    def _whole_values(self) -> dict[str, list[float]]:
        return {task.name: task.values("search", self._scores(task.name)) for task in self._course.whole}

    def _drawn(self, track: Track, count: int) -> tuple[Ints, Array]:
        """The numbers of the items among the first ``count`` draws, ascending, and their contributions."""
        numbers = self._numbers(track, 0, count)
        if not len(numbers):
            return numbers, np.zeros(0)
        items = [track.task.search[number] for number in numbers]
        scores = torch.stack([self._seen[track.task.name][number] for number in numbers.tolist()])
        contributed = track.task.evaluator.contributions(items, scores)
        return numbers, np.asarray(contributed.numpy(), dtype=np.float64)

    def _scores(self, name: str) -> Tensor:
        """Of the items scored so far, in the split's order."""
        return torch.stack([self._seen[name][number] for number in sorted(self._seen[name])])

    def result(self, stopped_at: int | None) -> Result:
        tasks = {task.name: task for task in self._job.searched if self._seen[task.name]}
        items = {name: [tasks[name].search[number] for number in sorted(self._seen[name])] for name in tasks}
        scores = {name: self._scores(name) for name in tasks}
        if stopped_at is None:
            return Result(scores, items, {name: tasks[name].value("search", scores[name]) for name in tasks})
        whole = {task.name: task.value("search", scores[task.name]) for task in self._course.whole}
        raced = self._estimates(stopped_at)
        values = {task.name: {**whole, **raced}[task.name] for task in self._job.searched}
        rows = {name: [value] for name, value in raced.items()} | self._whole_values()
        counted = {share.task: rows[share.task] for share in self._objective.shares}
        return Result(scores, items, values, True, float(self._objective.combine(_flat(counted))))

    def _estimates(self, count: int) -> dict[str, float]:
        """The values of the tasks that are raced."""
        found, inclusion = {}, self._course.draws.inclusion(count)
        for track in self._course.tracks:
            seen, scores = self._drawn(track, count)
            chances, name = inclusion[track.places][seen], track.task.name
            found[name] = track.value(chances, self._incumbent[name], seen, scores)
        return found


def _flat(rows: dict[str, list[float]]) -> Array:
    return np.array([value for values in rows.values() for value in values])


def lines(share: Share, value: float, slope: float) -> list[tuple[float, float]]:
    """(slope, constant) of the lines in v − value, the highest of which is what a value v adds to the objective.

    slope: of the objective in what it takes of the task. What is normalised is floored: max(0, (v − chance) / (1 −
    chance)) is the higher one of two lines.
    """
    if not share.chances:
        return [(slope, 0.0)]
    room = 1 - share.chances[0]
    normal = (value - share.chances[0]) / room
    floored = max(0.0, normal)
    return [(slope / room, slope * (normal - floored)), (0.0, -slope * floored)]


def gradient(aggregated: Callable[[Array], Array], each: Array) -> Array:
    """[tasks]: how the objective changes with what it takes of each task, by central differences."""
    steps = STEP * np.eye(len(each))
    centre = np.asarray(each)[:, None]
    return np.asarray((aggregated(centre + steps) - aggregated(centre - steps)) / (2 * STEP))
