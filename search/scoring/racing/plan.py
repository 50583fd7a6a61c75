"""How candidates are raced: the tasks that are raced, the order of their items, the blocks, and the references."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import stats
from torch import Tensor

from mergesearch.evaluators import Item
from mergesearch.evaluators.contract.graded import spread
from mergesearch.search.config.search import Racing
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.problem.tasks import Margins, Scores, Task
from mergesearch.search.scoring.racing.draws import Draws, Ints
from mergesearch.search.scoring.racing.foresight import Foresight
from mergesearch.search.statistics import Array
from mergesearch.seeds import derive

FEWEST = 64
"""The fewest items for which racing pays."""
FEWEST_OF_A_TASK = 16
"""A task with fewer items is scored in full in the first block."""
FEWEST_REFERENCES = 3
"""The fewest different candidates that tell something of another one."""
MOST_REFERENCES = 32
"""The most candidates from which others are foretold."""
MOST_FLOORS = 6
"""The most tasks with a floor at chance that are raced: each doubles the linear bounds that must all be rejected."""
BANDWIDTH = 0.2
"""Of the grades in all races. Wider ones differ more from the metric, which counts as variance of what is foretold."""
EVENNESS = 0.25
"""An item's rate is its noise plus this part of the task's mean noise: what nobody foresees must be drawn, too."""
GROWTH = 0.15
"""The size of a block as a fraction of the items scored before it. Small blocks cost nothing but smaller batches."""
LAST = 0.5
"""The fraction of the items after which a candidate is scored in full: there is little to save, and references help."""
THINNED = 4
"""The references' errors are measured after every so many blocks, to save time."""
LOOKS = 8
"""All looks at what is foretold err as often as so many independent ones would at most."""
SURVEYS = 37
"""The same of surveys. They err more often: early ones know their own variance from the errors on few items."""


@dataclass(frozen=True)
class RacedTask:
    """A task whose items are raced. begin: the number of its first item among the items of all raced tasks."""

    task: Task
    begin: int

    @property
    def span(self) -> slice:
        """The numbers of its items among the items of all raced tasks."""
        return slice(self.begin, self.begin + len(self.task.search))


@dataclass(frozen=True)
class RacePlan:
    """What the races of a run have in common, until another candidate is scored in full.

    raced_tasks, in_full: the tasks that are raced, and those that are scored in full; foresight: None where no task is
    raced; blocks: the numbers of draws after which a candidate is judged; error: the promised one.
    """

    raced_tasks: Sequence[RacedTask]
    in_full: Sequence[Task]
    foresight: Foresight | None
    draws: Draws
    blocks: Sequence[int]
    error: float

    @property
    def items_of_blocks(self) -> list[Ints]:
        """The items of each block."""
        return [self.draws.order[begin:end] for begin, end in zip([0, *self.blocks], self.blocks, strict=False)]

    @cached_property
    def threshold(self) -> float:
        """By how many foretold standard deviations a candidate must be behind to be stopped."""
        if self.foresight is None:
            return np.inf
        blocks = self.items_of_blocks
        some = [np.concatenate(blocks[begin : begin + THINNED]) for begin in range(0, len(blocks), THINNED)]
        return float(stats.norm.isf(self.error / LOOKS)) * self.foresight.scale(some)

    @property
    def survey_threshold(self) -> float:
        """By how many of the survey's standard deviations a candidate must be behind to be stopped."""
        return float(stats.norm.isf(self.error / SURVEYS))

    @property
    def described(self) -> str:
        """One line for the user."""
        if not self.raced_tasks:
            return (
                "racing: off, every candidate is scored in full: too few items or scored candidates, or scores of "
                "subtasks are normalised one by one"
            )
        full = f"; in full: {', '.join(task.name for task in self.in_full)}" if self.in_full else ""
        return f"racing: up to {len(self.blocks) + 1} blocks over {len(self.draws.order)} items{full}"


def plan_race(tasks: TaskSet, references: Sequence[tuple[Scores, Margins]], racing: Racing, seed: int) -> RacePlan:
    """Plans races from candidates that were scored in full. Items of which they tell less are drawn earlier.

    Tasks that only constraints use are not raced: they are scored in full.
    """
    raced = _few_floors([task for task in tasks.counted("search") if _can_be_raced(task)])
    raced_tasks = list(_with_begins(raced))
    foresight = _foresight(raced_tasks, references) if raced else None
    if foresight is None or foresight.grades.shape[1] < FEWEST or len(foresight.grades) < FEWEST_REFERENCES:
        return RacePlan([], tasks.searched, None, Draws(np.zeros(0), np.zeros(0)), [], racing.error)
    draws = Draws.of(_rates(raced, foresight), derive(seed, "race"))
    in_full = [task for task in tasks.searched if task not in raced]
    return RacePlan(raced_tasks, in_full, foresight, draws, _blocks(len(draws.order), racing.first_block), racing.error)


def _with_begins(tasks: Sequence[Task]) -> Iterator[RacedTask]:
    begin = 0
    for task in tasks:
        yield RacedTask(task, begin)
        begin += len(task.search)


def _can_be_raced(task: Task) -> bool:
    """Whether it has enough items and one value. A group whose subtasks are normalised one by one has several."""
    return len(task.search) >= FEWEST_OF_A_TASK and task.share("search").rows == 1


def _few_floors(tasks: Sequence[Task]) -> list[Task]:
    """Leaves out the smallest of the tasks with a floor at chance where there are too many of them."""
    floored = sorted((task for task in tasks if task.normalize), key=lambda task: -len(task.search))
    return [task for task in tasks if task not in floored[MOST_FLOORS:]]


def _foresight(raced_tasks: Sequence[RacedTask], references: Sequence[tuple[Scores, Margins]]) -> Foresight:
    """From those of the references that differ."""
    tasks = [raced_task.task for raced_task in raced_tasks]
    grades = np.stack([_joined(tasks, *reference) for reference in references])
    metric = np.stack([_joined(tasks, scores, {}) for scores, _ in references])
    distinct = np.sort(np.unique(grades, axis=0, return_index=True)[1])
    numbers = np.repeat(np.arange(len(tasks)), [len(task.search) for task in tasks])
    shares = np.zeros((len(tasks), len(numbers)))
    for number, raced_task in enumerate(raced_tasks):
        shares[number, raced_task.span] = _shares(raced_task.task)
    return Foresight(grades[distinct], metric[distinct], numbers, shares)


def _joined(tasks: Sequence[Task], scores: Scores, margins: Margins) -> Array:
    """[items]: what the items of all tasks contribute to the values of their tasks."""
    return np.concatenate(
        [contributions(task, task.search, scores[task.name], margins.get(task.name)) for task in tasks]
    )


def contributions(task: Task, items: Sequence[Item], scores: Tensor, margins: Tensor | None) -> Array:
    """[items]: what each item contributes to the metric; with margins, to its graded counterpart."""
    if margins is None or task.graded is None:
        found = task.evaluator.contributions(items, scores)
    else:
        found = task.graded.graded_contributions(items, margins, BANDWIDTH * spread(margins))
    return np.asarray(found.numpy(), dtype=np.float64)


def _shares(task: Task) -> Array:
    """[items]: the weight of each item in the task's value; the sum is 1."""
    weights = np.array([item.weight for item in task.search], dtype=np.float64)
    return np.asarray(weights / weights.sum())


def _rates(tasks: Sequence[Task], foresight: Foresight) -> Array:
    """[items]: the rates of draws: the noise in units of the objective, made more even."""
    slopes = np.array([_slope(task) for task in tasks])[foresight.tasks]
    sizes = np.bincount(foresight.tasks)
    mean = (np.bincount(foresight.tasks, foresight.noise) / sizes)[foresight.tasks]
    return np.asarray(slopes * foresight.shares.sum(0) * (foresight.noise + EVENNESS * mean))


def _slope(task: Task) -> float:
    share = task.share("search")
    return share.weight / (1 - share.chances[0]) if share.chances else share.weight


def _blocks(items: int, first: int) -> list[int]:
    """The numbers of draws after which a candidate is judged, beginning with ``first``."""
    ends: list[int] = []
    count = float(first)
    while (end := round(count)) <= LAST * items:
        ends += [end] if not ends or end > ends[-1] else []
        count *= 1 + GROWTH
    return ends
