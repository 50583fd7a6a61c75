"""Racing: candidates are scored block by block, and a candidate that is worse than the incumbent stops early.
from mergesearch.search.statistics import Array

The incumbent is the best candidate that was scored in full. After the baselines are scored, the items of all tasks are
put into one random order for the rest of the run; items on which the baselines differ tend to come early (see
``betting_test``). A candidate that is better than the incumbent on the search items is dropped with probability at most
``error``, over the random order and all blocks together. This holds for each candidate alone, if it was chosen
independently of the order. For unbounded scores it also needs that no remaining item has a residual larger than
``SLACK`` times the largest residual so far (see ``predict``); a candidate that violates this is scored in full.

An objective that is not a weighted sum is replaced by its tangent at the incumbent. A concave objective (minimum,
geometric mean) lies below its tangent, so the tangent of a better candidate is above zero and the bound holds. A value
with a floor at chance is the maximum of two linear functions; a candidate is stopped where both reject it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import log

import numpy as np
import torch
from torch import Tensor

from mergesearch.evaluators import Item
from mergesearch.search.problem.objective import Share
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.problem.tasks import Margins, Scores, Task
from mergesearch.search.scoring.racing.betting_test import BettingTest, ExpectedGains, Ints
from mergesearch.search.scoring.racing.plan import RacedTask, RacePlan, contributions
from mergesearch.search.scoring.racing.predict import Prediction
from mergesearch.search.statistics import Array

STEP = 1e-6

Score = Callable[[Task, Sequence[Item]], tuple[Tensor, Tensor | None]]
"""Scores some items of a task: see ``Task.score_with_margins``."""


@dataclass(frozen=True)
class Result:
    """A candidate's result: per-item scores of each task, the items, the tasks' values, and margins of graded tasks.

    A stopped candidate has the scores of some items only. Its values are estimates, and so is its objective,
    ``estimate``.
    """

    scores: Scores
    items: dict[str, list[Item]]
    values: dict[str, float]
    stopped: bool = False
    estimate: float | None = None
    margins: Margins = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many items were scored."""
        return sum(map(len, self.items.values()))


def whole_result(tasks: TaskSet, scores: Scores, margins: Margins) -> Result:
    """The result of a candidate that was scored on all search items."""
    items = {task.name: list(task.search) for task in tasks.searched}
    return Result(scores, items, tasks.values("search", scores), margins=margins)


def run_race(tasks: TaskSet, plan: RacePlan, incumbent: Scores, score: Score, may_stop: bool = True) -> Result:
    """Scores a candidate block by block, until it is stopped, where it may be, or scored in full."""
    race = _Race(tasks, plan, incumbent)
    race.score_in_full(score)
    begin = 0
    for end in plan.blocks:
        race.score_draws(score, begin, end)
        if may_stop:
            race.predict_gains(begin, end)
            if race.is_lost(end):
                return race.result(end)
        begin = end
    race.score_draws(score, begin, len(plan.draws.order))
    return race.result(None)


class _Race:
    def __init__(self, tasks: TaskSet, plan: RacePlan, incumbent: Scores) -> None:
        self._tasks = tasks
        self._plan = plan
        self._objective = tasks.objective("search")
        self._incumbent = {task.name: contributions(task, incumbent[task.name]) for task in tasks.searched}
        self._seen: dict[str, dict[int, Tensor]] = {task.name: {} for task in tasks.searched}
        self._margins: dict[str, dict[int, Tensor]] = {}
        self._predictions: list[tuple[int, Prediction]] = []
        counted = tasks.counted("search")
        rows = {task.name: task.values("search", incumbent[task.name]) for task in counted}
        self._each = self._objective.each(_flat(rows))
        slopes = gradient(self._objective.aggregated, self._each)
        self._slopes = dict(zip(rows, slopes.tolist(), strict=True))
        shares = {share.task: share for share in self._objective.shares}
        self._lines = [
            lines(shares[raced_task.task.name], rows[raced_task.task.name][0], self._slopes[raced_task.task.name])
            for raced_task in plan.raced_tasks
        ]

    def score_in_full(self, score: Score) -> None:
        """Scores the tasks that are not raced."""
        for task in self._plan.in_full:
            self._score(score, task, range(len(task.search)))

    def score_draws(self, score: Score, begin: int, end: int) -> None:
        for raced_task in self._plan.raced_tasks:
            numbers = self._numbers(raced_task, begin, end).tolist()
            if numbers:
                self._score(score, raced_task.task, numbers)

    def _numbers(self, raced_task: RacedTask, begin: int, end: int) -> Ints:
        """The task's items among these draws, ascending."""
        drawn = np.sort(self._plan.draws.order[begin:end])
        return np.asarray(drawn[(drawn >= raced_task.span.start) & (drawn < raced_task.span.stop)] - raced_task.begin)

    def _score(self, score: Score, task: Task, numbers: Sequence[int]) -> None:
        scores, margins = score(task, [task.search[number] for number in numbers])
        self._seen[task.name].update(zip(numbers, scores, strict=True))
        if margins is not None:
            self._margins.setdefault(task.name, {}).update(zip(numbers, margins, strict=True))

    def predict_gains(self, begin: int, end: int) -> None:
        """Predicts gains anew at the planned draws in this block, each time from the draws before."""
        for start in self._plan.prediction_draws:
            if begin <= start < end:
                self._predictions.append((start, self._predicted(start)))

    def _predicted(self, start: int) -> Prediction:
        raced_tasks = self._plan.raced_tasks
        values = [
            raced_task.predict(self._incumbent[raced_task.task.name], *self._drawn(raced_task, start))
            for raced_task in raced_tasks
        ]
        return Prediction.joined(values, [raced_task.shares for raced_task in raced_tasks])

    def is_lost(self, count: int) -> bool:
        """Whether the evidence against the candidate reaches 1 / error for every linear bound of its value."""
        gains = np.concatenate([self._gains(raced_task, count) for raced_task in self._plan.raced_tasks])
        fixed = self._fixed_difference()
        return all(self._is_lost(count, gains, fixed, chosen) for chosen in product(*self._lines))

    def _is_lost(self, count: int, gains: Array, fixed: float, chosen: Sequence[tuple[float, float]]) -> bool:
        """chosen: for each raced task, slope and constant of one linear bound."""
        order = self._plan.draws.order
        sizes = [len(raced_task.weights) for raced_task in self._plan.raced_tasks]
        slopes = np.repeat([slope for slope, _ in chosen], sizes)[order]
        stages = [ExpectedGains(begin, *predict.ordered(order, slopes)) for begin, predict in self._predictions]
        beyond = fixed + sum(constant for _, constant in chosen)
        betting_test = BettingTest(self._plan.draws, slopes[:count] * gains[order[:count]], stages, beyond)
        return not betting_test.broken and betting_test.log_evidence >= -log(self._plan.error)

    def _gains(self, raced_task: RacedTask, count: int) -> Array:
        """[items]: what each seen item adds to the difference of the task's value; 0 for the others."""
        values = np.zeros(len(raced_task.weights))
        seen, scores = self._drawn(raced_task, count)
        values[seen] = raced_task.shares[seen] * (scores - self._incumbent[raced_task.task.name][seen])
        return values

    def _fixed_difference(self) -> float:
        """The part of the difference that comes from the tasks scored in full."""
        in_full = {task.name for task in self._plan.in_full}
        rows = {share.task: [0.0] * share.rows for share in self._objective.shares}
        rows |= {name: values for name, values in self._in_full_values().items() if name in rows}
        gains = dict(zip(rows, self._objective.each(_flat(rows)) - self._each, strict=True))
        return float(sum(self._slopes[name] * gain for name, gain in gains.items() if name in in_full))

    def _in_full_values(self) -> dict[str, list[float]]:
        return {task.name: task.values("search", self._scores(task.name)) for task in self._plan.in_full}

    def _drawn(self, raced_task: RacedTask, count: int) -> tuple[Ints, Array]:
        """The task's item numbers among the first ``count`` draws, ascending, and their contributions."""
        numbers = self._numbers(raced_task, 0, count)
        if not len(numbers):
            return numbers, np.zeros(0)
        items = [raced_task.task.search[number] for number in numbers]
        scores = torch.stack([self._seen[raced_task.task.name][number] for number in numbers.tolist()])
        contributed = raced_task.task.evaluator.contributions(items, scores)
        return numbers, np.asarray(contributed.numpy(), dtype=np.float64)

    def _scores(self, name: str) -> Tensor:
        """The task's scores so far, in the order of the split."""
        return _in_order(self._seen[name])

    def result(self, stopped_at: int | None) -> Result:
        tasks = {task.name: task for task in self._tasks.searched if self._seen[task.name]}
        items = {name: [tasks[name].search[number] for number in sorted(self._seen[name])] for name in tasks}
        scores = {name: self._scores(name) for name in tasks}
        margins = {name: _in_order(seen) for name, seen in self._margins.items()}
        if stopped_at is None:
            return whole_result(self._tasks, scores, margins)
        in_full = {task.name: task.value("search", scores[task.name]) for task in self._plan.in_full}
        raced = self._estimates(stopped_at)
        values = {task.name: {**in_full, **raced}[task.name] for task in self._tasks.searched}
        rows = {name: [value] for name, value in raced.items()} | self._in_full_values()
        counted = {share.task: rows[share.task] for share in self._objective.shares}
        return Result(scores, items, values, True, float(self._objective.combine(_flat(counted))), margins)

    def _estimates(self, count: int) -> dict[str, float]:
        """Estimates of the raced tasks' values."""
        values, inclusion = {}, self._plan.draws.inclusion(count)
        for raced_task in self._plan.raced_tasks:
            seen, scores = self._drawn(raced_task, count)
            chances, name = inclusion[raced_task.span][seen], raced_task.task.name
            values[name] = raced_task.value(chances, self._incumbent[name], seen, scores)
        return values


def _in_order(by_number: Mapping[int, Tensor]) -> Tensor:
    return torch.stack([by_number[number] for number in sorted(by_number)])


def _flat(rows: dict[str, list[float]]) -> Array:
    return np.array([value for values in rows.values() for value in values])


def lines(share: Share, value: float, slope: float) -> list[tuple[float, float]]:
    """(slope, constant) of linear functions of v − value; their maximum is what a task's value v adds to the objective.

    slope: the derivative of the objective by the task's (normalised) value. A normalised value has a floor:
    max(0, (v − chance) / (1 − chance)) is the maximum of two linear functions.
    """
    if not share.chances:
        return [(slope, 0.0)]
    room = 1 - share.chances[0]
    normal = (value - share.chances[0]) / room
    floored = max(0.0, normal)
    return [(slope / room, slope * (normal - floored)), (0.0, -slope * floored)]


def gradient(aggregated: Callable[[Array], Array], each: Array) -> Array:
    """[tasks]: the derivative of the objective by each task's value, by central differences."""
    steps = STEP * np.eye(len(each))
    centre = np.asarray(each)[:, None]
    return np.asarray((aggregated(centre + steps) - aggregated(centre - steps)) / (2 * STEP))
