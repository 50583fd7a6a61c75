"""Racing: candidates are scored block by block, and a candidate that is worse than the incumbent stops early.

The incumbent is the best candidate that was scored in full. Items are drawn in one random order. After each block, the
candidate's value by the metric on all search items is estimated twice: from other candidates (see ``foresight``), and
from the candidate's own items alone, with the former as a control variate (see ``survey``). A candidate is stopped
where both are behind the incumbent by more than a multiple of their standard deviations. The multiples are such that a
candidate that is better than the incumbent on the search items is stopped with a probability of about ``error`` at
most, over all looks together. This is no theorem: it was measured on recorded and simulated searches.

An objective that is not a weighted sum is replaced by its tangent at the incumbent. A concave objective (minimum,
geometric mean) lies below its tangent, so the tangent of a better candidate is above zero. A value with a floor at
chance is the maximum of two linear functions; a candidate is stopped where both reject it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import torch
from torch import Tensor

from mergesearch.evaluators import Item
from mergesearch.search.problem.objective import Share
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.problem.tasks import Margins, Scores, Task
from mergesearch.search.scoring.racing.draws import Ints
from mergesearch.search.scoring.racing.foresight import Candidate, Foretold
from mergesearch.search.scoring.racing.plan import RacedTask, RacePlan, contributions
from mergesearch.search.scoring.racing.survey import Survey
from mergesearch.search.statistics import Array

STEP = 1e-6
EPSILON = 1e-12
"""By so much at least a candidate must be behind."""

Score = Callable[[Task, Sequence[Item]], tuple[Tensor, Tensor | None]]
"""Scores some items of a task: see ``Task.score_with_margins``."""


@dataclass(frozen=True)
class Result:
    """A candidate's result: per-item scores of each task, the items, the tasks' values, and margins of graded tasks.

    A stopped candidate has the scores of some items only. Its values are estimates, and so is its objective,
    ``estimate``, whose standard error is ``error``.
    """

    scores: Scores
    items: dict[str, list[Item]]
    values: dict[str, float]
    stopped: bool = False
    estimate: float | None = None
    margins: Margins = field(default_factory=dict)
    error: float | None = None

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
    for block in plan.items_of_blocks:
        race.score_block(score, block)
        judged = race.judged() if may_stop else None
        if judged and race.is_lost(*judged):
            return race.stopped(judged[0])
    race.score_block(score, plan.draws.order[sum(map(len, plan.items_of_blocks)) :])
    return race.whole()


class _Race:
    def __init__(self, tasks: TaskSet, plan: RacePlan, incumbent: Scores) -> None:
        self._tasks = tasks
        self._plan = plan
        self._objective = tasks.objective("search")
        self._incumbent = incumbent
        self._scores: dict[str, dict[int, Tensor]] = {task.name: {} for task in tasks.searched}
        self._margins: dict[str, dict[int, Tensor]] = {}
        self._rows = {task.name: task.values("search", incumbent[task.name]) for task in tasks.counted("search")}
        self._each = self._objective.each(_flat(self._rows))
        slopes = gradient(self._objective.aggregated, self._each)
        self._slopes = dict(zip(self._rows, slopes.tolist(), strict=True))
        shares = {share.task: share for share in self._objective.shares}
        self._raced = [raced_task.task.name for raced_task in plan.raced_tasks]
        self._lines = [lines(shares[name], self._rows[name][0], self._slopes[name]) for name in self._raced]

    def score_in_full(self, score: Score) -> None:
        """Scores the tasks that are not raced."""
        for task in self._plan.in_full:
            self._score(score, task, range(len(task.search)))

    def score_block(self, score: Score, block: Ints) -> None:
        """Scores the raced tasks' items among those of a block, in the order of the split."""
        for raced_task in self._plan.raced_tasks:
            numbers = np.sort(block[(block >= raced_task.span.start) & (block < raced_task.span.stop)])
            if len(numbers):
                self._score(score, raced_task.task, (numbers - raced_task.begin).tolist())

    def _score(self, score: Score, task: Task, numbers: Sequence[int]) -> None:
        scores, margins = score(task, [task.search[number] for number in numbers])
        self._scores[task.name].update(zip(numbers, scores, strict=True))
        if margins is not None:
            self._margins.setdefault(task.name, {}).update(zip(numbers, margins, strict=True))

    def judged(self) -> tuple[Foretold, Survey]:
        """The values of the raced tasks, as they are foretold and surveyed from the items seen so far."""
        assert self._plan.foresight is not None
        candidate = Candidate(*(np.zeros(len(self._plan.draws.order)) for _ in range(2)))
        seen = np.concatenate([self._read(raced_task, candidate) for raced_task in self._plan.raced_tasks])
        foretold = next(self._plan.foresight.foretell(candidate, [seen]))
        return foretold, self._plan.foresight.survey(candidate, foretold, seen, self._plan.draws.odds(len(seen)))

    def _read(self, raced_task: RacedTask, candidate: Candidate) -> Ints:
        """Notes what the task's seen items contribute, and returns their numbers.

        Where the value is no mean over items, contributions depend on the items that were not seen as well: these count
        with the incumbent's scores.
        """
        task, name = raced_task.task, raced_task.task.name
        seen = np.array(sorted(self._scores[name]), dtype=np.int64)
        numbers = seen + raced_task.begin
        if len(seen):
            scores, margins = _in_order(self._scores[name]), self._margins.get(name)
            mixed = self._incumbent[name].clone()
            mixed[seen] = scores
            candidate.metric[numbers] = contributions(task, task.search, mixed, None)[seen]
            candidate.grades[numbers] = candidate.metric[numbers]
            if margins:
                items = [task.search[number] for number in seen.tolist()]
                candidate.grades[numbers] = contributions(task, items, scores, _in_order(margins))
        return np.asarray(numbers)

    def is_lost(self, foretold: Foretold, survey: Survey) -> bool:
        """Whether the candidate is behind beyond doubt by every linear bound of its objective."""
        fixed = self._fixed_difference()
        return all(self._is_behind(foretold, survey, fixed, chosen) for chosen in product(*self._lines))

    def _is_behind(
        self, foretold: Foretold, survey: Survey, fixed: float, chosen: Sequence[tuple[float, float]]
    ) -> bool:
        """Whether both say so. chosen: for each raced task, slope and constant of one linear bound."""
        slopes, constants = np.array(chosen).T
        gain = fixed + constants.sum() - slopes @ [self._rows[name][0] for name in self._raced]
        deviation = float(np.sqrt(slopes @ foretold.covariance @ slopes))
        surveyed, error = survey.combined(slopes)
        highest = slopes @ foretold.values + self._plan.threshold * deviation
        highest_surveyed = surveyed + self._plan.survey_threshold * error
        return bool(gain + max(highest, highest_surveyed) < -EPSILON)

    def _fixed_difference(self) -> float:
        """The part of the difference that comes from the tasks scored in full."""
        in_full = self._in_full_values()
        gains = dict(zip(self._rows, self._objective.each(_flat(self._rows | in_full)) - self._each, strict=True))
        return float(sum(self._slopes[name] * gain for name, gain in gains.items() if name in in_full))

    def _in_full_values(self) -> dict[str, list[float]]:
        """Of the tasks that count in the objective and are scored in full."""
        tasks = [task for task in self._plan.in_full if task.name in self._rows]
        return {task.name: task.values("search", _in_order(self._scores[task.name])) for task in tasks}

    def whole(self) -> Result:
        """The result of a candidate that was scored on all items."""
        return whole_result(self._tasks, *self._seen())

    def stopped(self, foretold: Foretold) -> Result:
        """The result of a candidate that is stopped."""
        scores, margins = self._seen()
        searched = {task.name: task for task in self._tasks.searched}
        items = {name: [searched[name].search[number] for number in sorted(self._scores[name])] for name in scores}
        raced = dict(zip(self._raced, foretold.values.tolist(), strict=True))
        in_full = {task.name: task.value("search", scores[task.name]) for task in self._plan.in_full}
        values = {name: (in_full | raced)[name] for name in searched}
        rows = self._rows | self._in_full_values() | {name: [value] for name, value in raced.items()}
        slopes = gradient(self._objective.combine, _flat(rows))[[_row_of(rows, name) for name in self._raced]]
        error = float(np.sqrt(slopes @ foretold.covariance @ slopes))
        estimate = float(self._objective.combine(_flat(rows)))
        return Result(scores, items, values, True, estimate, margins, error)

    def _seen(self) -> tuple[Scores, Margins]:
        """Scores and margins so far, in the order of the split."""
        scores = {name: _in_order(seen) for name, seen in self._scores.items() if seen}
        return scores, {name: _in_order(seen) for name, seen in self._margins.items()}


def _in_order(by_number: Mapping[int, Tensor]) -> Tensor:
    return torch.stack([by_number[number] for number in sorted(by_number)])


def _flat(rows: Mapping[str, Sequence[float]]) -> Array:
    return np.array([value for values in rows.values() for value in values])


def _row_of(rows: Mapping[str, Sequence[float]], name: str) -> int:
    """The place of a task's first value."""
    return sum(len(rows[other]) for other in list(rows)[: list(rows).index(name)])


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
    """[values]: the derivative of the objective by each value, by central differences."""
    steps = STEP * np.eye(len(each))
    centre = np.asarray(each)[:, None]
    return np.asarray((aggregated(centre + steps) - aggregated(centre - steps)) / (2 * STEP))
