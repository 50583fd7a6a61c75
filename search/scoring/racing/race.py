"""Racing: candidates are scored block by block, and a candidate that is worse than the incumbent stops early.

The incumbent is the best candidate that was scored in full. Items are drawn at random, in an order of the candidate's
own. Candidates that were scored in full foretell what each item will contribute to the candidate's value by the metric.
A bet is made that the candidate is worse than the incumbent (see ``bets``), and the candidate is stopped when the bet
is won. A candidate that is better than the incumbent on the search items, by more than ``least_gain``, is stopped with
a probability of at most ``error``, over all looks together, however wrong the forecast is. That is a theorem where
items are right or wrong and values are their means; where no bound is known for what an item may add, one is assumed.

An objective that is not a weighted sum is replaced by its tangent at the incumbent. A concave objective (minimum,
geometric mean) lies below its tangent, so the tangent of a better candidate is above zero. A value with a floor at
chance is the maximum of two linear functions; a candidate is stopped where both reject it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product

import numpy as np
import torch
from torch import Tensor

from mergesearch.evaluators import Item
from mergesearch.search.problem.objective import Share
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.problem.tasks import Margins, Scores, Task
from mergesearch.search.scoring.racing.bets import Bet, Block
from mergesearch.search.scoring.racing.plan import RacedTask, RacePlan, contributions
from mergesearch.search.scoring.racing.references import References
from mergesearch.search.signal.foresight import Foretold, Ints
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


def run_race(tasks: TaskSet, plan: RacePlan, incumbent: Scores, score: Score, name: str) -> Result:
    """Scores a candidate block by block, until it is stopped or scored in full.

    name: that of the candidate, by which its items are drawn.
    """
    race = _Race(tasks, plan, incumbent)
    race.score_in_full(score)
    *blocks, last = plan.blocks_of(name)
    for block in blocks:
        race.score_block(score, block)
        if race.is_lost(block):
            return race.stopped()
    race.score_block(score, last)
    return race.whole()


class _Race:
    def __init__(self, tasks: TaskSet, plan: RacePlan, incumbent: Scores) -> None:
        self._tasks = tasks
        self._plan = plan
        self._objective = tasks.objective("search")
        self._incumbent = incumbent
        self._scored = {task.name: _Scored() for task in tasks.searched}
        self._rows = {task.name: task.values("search", incumbent[task.name]) for task in tasks.counted("search")}
        self._each = self._objective.each(_flat(self._rows))
        slopes = gradient(self._objective.aggregated, self._each)
        self._slopes = dict(zip(self._rows, slopes.tolist(), strict=True))
        shares = {share.task: share for share in self._objective.shares}
        self._raced = [raced_task.task.name for raced_task in plan.raced_tasks]
        self._lines = [lines(shares[name], self._rows[name][0], self._slopes[name]) for name in self._raced]
        self._seen = np.full(len(plan.rates), False)
        self._metric, self._grades = (np.full(len(plan.rates), np.nan) for _ in range(2))

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
        self._scored[task.name].add(numbers, *score(task, [task.search[number] for number in numbers]))

    def is_lost(self, block: Ints) -> bool:
        """Whether the candidate is behind by every linear bound of its objective. block: what was scored last."""
        foretold, left = self._foretold(), ~self._seen
        expected, spreads = self._references.metric_of(foretold), self._references.spreads(foretold)
        for raced_task in self._plan.raced_tasks:
            self._read(raced_task)
        self._seen[block] = True
        for bet in self._bets:
            room = self._references.room(bet.weights, expected, spreads)
            bet.settle(Block(block, left, self._metric, expected, room, bet.weights * spreads))
        return all(bet.is_won(self._plan.error) for bet in self._bets)

    @property
    def _references(self) -> References:
        assert self._plan.references is not None
        return self._plan.references

    def _foretold(self) -> Foretold:
        """From the items that were read so far."""
        return self._references.foretell(self._grades)

    def _read(self, raced_task: RacedTask) -> None:
        """Notes what the task's scored items contribute.

        Where the value is no mean over items, contributions depend on the items that were not seen as well: these count
        with the incumbent's scores.
        """
        task, scored = raced_task.task, self._scored[raced_task.task.name]
        if not scored:
            return
        seen, scores, margins = scored.in_order()
        numbers, mixed = seen + raced_task.begin, self._incumbent[task.name].clone()
        mixed[seen] = scores
        self._metric[numbers] = contributions(task, task.search, mixed, None)[seen]
        self._grades[numbers] = self._metric[numbers]
        if margins is not None:
            items = [task.search[number] for number in seen.tolist()]
            self._grades[numbers] = contributions(task, items, scores, margins)

    @cached_property
    def _bets(self) -> list[Bet]:
        """One for each linear bound of the objective: for each raced task, one of its lines."""
        return [self._bet(*np.array(chosen).T) for chosen in product(*self._lines)]

    def _bet(self, slopes: Array, constants: Array) -> Bet:
        values = [self._rows[name][0] for name in self._raced]
        needed = slopes @ values - constants.sum() - self._fixed_difference()
        return Bet(slopes @ self._plan.shares, float(needed + self._plan.least_gain - EPSILON), self._plan.rates)

    def _fixed_difference(self) -> float:
        """The part of the difference that comes from the tasks scored in full."""
        in_full = self._in_full_values()
        gains = dict(zip(self._rows, self._objective.each(_flat(self._rows | in_full)) - self._each, strict=True))
        return float(sum(self._slopes[name] * gain for name, gain in gains.items() if name in in_full))

    def _in_full_values(self) -> dict[str, list[float]]:
        """Of the tasks that count in the objective and are scored in full."""
        tasks = [task for task in self._plan.in_full if task.name in self._rows]
        return {task.name: task.values("search", self._scored[task.name].in_order()[1]) for task in tasks}

    def whole(self) -> Result:
        """The result of a candidate that was scored on all items."""
        _, scores, margins = self._so_far()
        return whole_result(self._tasks, scores, margins)

    def stopped(self) -> Result:
        """The result of a candidate that is stopped."""
        foretold, (seen, scores, margins) = self._foretold(), self._so_far()
        known = np.where(self._seen, self._metric, self._references.metric_of(foretold))
        searched = {task.name: task for task in self._tasks.searched}
        items = {name: [searched[name].search[number] for number in seen[name].tolist()] for name in seen}
        raced = dict(zip(self._raced, (self._plan.shares @ known).tolist(), strict=True))
        in_full = {task.name: task.value("search", scores[task.name]) for task in self._plan.in_full}
        values = {name: (in_full | raced)[name] for name in searched}
        rows = self._rows | self._in_full_values() | {name: [value] for name, value in raced.items()}
        slopes = gradient(self._objective.combine, _flat(rows))[[_row_of(rows, name) for name in self._raced]]
        error = self._references.error(foretold, slopes @ self._plan.shares * ~self._seen)
        estimate = float(self._objective.combine(_flat(rows)))
        return Result(scores, items, values, True, estimate, margins, error)

    def _so_far(self) -> tuple[dict[str, Ints], Scores, Margins]:
        """The numbers of the items of each task that were scored, in the order of the split; scores and margins."""
        found = {name: scored.in_order() for name, scored in self._scored.items() if scored}
        seen = {name: numbers for name, (numbers, _, _) in found.items()}
        scores = {name: scores for name, (_, scores, _) in found.items()}
        return seen, scores, {name: margins for name, (_, _, margins) in found.items() if margins is not None}


class _Scored:
    """What was scored of a task, block by block. False where nothing was."""

    def __init__(self) -> None:
        self._numbers: list[Sequence[int]] = []
        self._scores: list[Tensor] = []
        self._margins: list[Tensor] = []

    def __bool__(self) -> bool:
        return bool(self._numbers)

    def add(self, numbers: Sequence[int], scores: Tensor, margins: Tensor | None) -> None:
        """The scores of the items with these numbers, and their margins, if any."""
        self._numbers.append(numbers)
        self._scores.append(scores)
        if margins is not None:
            self._margins.append(margins)

    def in_order(self) -> tuple[Ints, Tensor, Tensor | None]:
        """The numbers of the items in the order of the split, their scores, and their margins, if any."""
        numbers = np.concatenate([np.asarray(block, dtype=np.int64) for block in self._numbers])
        order = np.argsort(numbers)
        margins = torch.cat(self._margins)[order] if self._margins else None
        return numbers[order], torch.cat(self._scores)[order], margins


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
