"""How candidates are raced: the tasks that are raced, the order of their items, the blocks, and the references."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from mergesearch.evaluators import Item
from mergesearch.evaluators.contract.graded import spread
from mergesearch.search.config.search import Racing
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.problem.tasks import Margins, Scores, Task
from mergesearch.search.scoring.racing.bets import drawn
from mergesearch.search.scoring.racing.references import References
from mergesearch.search.signal.foresight import Ints, by_task
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
"""Of the grades in all races. Others between 0 (the metric) and 0.5 save as much."""
CAUTION = 0.6
"""How much what a right answer would add counts in an item's rate: where all are wrong, surprises cost a bet most."""
EVENNESS = 0.2
"""How much the task's mean noise counts in an item's rate: what nobody foresees must be drawn, too."""
GROWTH = 0.15
"""The size of a block as a fraction of the items scored before it. Small blocks cost nothing but smaller batches."""
LAST = 0.5
"""The fraction of the items after which a candidate is scored in full: there is little to save, and references help."""


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

    raced_tasks, in_full: the tasks that are raced, and those that are scored in full; shares: [tasks, items], the
    weight of each item of all raced tasks in the value of each; references: None where no task is raced; rates:
    [items], by which items are drawn; blocks: the numbers of draws after which a candidate is judged; error: the
    promised one, 0 if nobody is to be stopped; least_gain: candidates that are better by more are not to be stopped.
    """

    raced_tasks: Sequence[RacedTask]
    in_full: Sequence[Task]
    shares: Array
    references: References | None
    rates: Array
    blocks: Sequence[int]
    error: float
    least_gain: float
    seed: int

    def blocks_of(self, name: str) -> list[Ints]:
        """The items of each block of the candidate with this name, in the order of draws; the last are the others.

        Each candidate has an order of its own: the promise is over all orders of a candidate's items.
        """
        order = drawn(self.rates, derive(self.seed, "race", name))
        return [order[begin:end] for begin, end in zip([0, *self.blocks], [*self.blocks, len(order)], strict=True)]

    @property
    def described(self) -> str:
        """One line for the user."""
        if not self.raced_tasks:
            return (
                "racing: off, every candidate is scored in full: too few items or scored candidates, or scores of "
                "subtasks are normalised one by one"
            )
        full = f"; in full: {', '.join(task.name for task in self.in_full)}" if self.in_full else ""
        return f"racing: up to {len(self.blocks) + 1} blocks over {len(self.rates)} items{full}"


def plan_race(tasks: TaskSet, references: Sequence[tuple[Scores, Margins]], racing: Racing, seed: int) -> RacePlan:
    """Plans races from candidates that were scored in full. Items of which they tell less are drawn earlier.

    Tasks that only constraints use are not raced: they are scored in full.
    """
    raced = _few_floors([task for task in tasks.counted("search") if _can_be_raced(task)])
    raced_tasks = list(_with_begins(raced))
    told = _references(raced, references) if raced else None
    if told is None or len(told.tasks) < FEWEST or len(told.metric) < FEWEST_REFERENCES:
        return RacePlan(
            [], tasks.searched, np.zeros((0, 0)), None, np.zeros(0), [], racing.error, racing.least_gain, seed
        )
    in_full = [task for task in tasks.searched if task not in raced]
    shares, blocks = _shares(raced_tasks), _blocks(len(told.tasks), racing.first_block)
    rates = _rates(raced, shares, told)
    return RacePlan(raced_tasks, in_full, shares, told, rates, blocks, racing.error, racing.least_gain, seed)


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


def _references(tasks: Sequence[Task], references: Sequence[tuple[Scores, Margins]]) -> References:
    """Those that differ."""
    grades = np.stack([_joined(tasks, *reference) for reference in references])
    metric = np.stack([_joined(tasks, scores, {}) for scores, _ in references])
    distinct = np.sort(np.unique(grades, axis=0, return_index=True)[1])
    numbers = np.repeat(np.arange(len(tasks)), [len(task.search) for task in tasks])
    return References(grades[distinct], metric[distinct], numbers)


def _shares(raced_tasks: Sequence[RacedTask]) -> Array:
    """[tasks, items]: the weight of each item in the value of each task; the sum over a task's items is 1."""
    shares = np.zeros((len(raced_tasks), raced_tasks[-1].span.stop))
    for number, raced_task in enumerate(raced_tasks):
        weights = np.array([item.weight for item in raced_task.task.search], dtype=np.float64)
        shares[number, raced_task.span] = weights / weights.sum()
    return shares


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


def _rates(tasks: Sequence[Task], shares: Array, references: References) -> Array:
    """[items]: the rates of draws. An item is drawn the more likely the less is known of what it adds."""
    weights = np.array([_slope(task) for task in tasks]) @ shares
    noise = references.spread**2 + EVENNESS**2 * by_task(references.spread, references.tasks) ** 2
    room = np.where(references.decisions, references.room(weights, references.usual_metric, references.spread), 0.0)
    return np.asarray(np.sqrt(weights**2 * noise + (CAUTION * room) ** 2))


def _slope(task: Task) -> float:
    share = task.share("search")
    return share.sign * share.weight / ((1 - share.chances[0]) if share.chances else 1.0)


def _blocks(items: int, first: int) -> list[int]:
    """The numbers of draws after which a candidate is judged, beginning with ``first``."""
    ends: list[int] = []
    count = float(first)
    while (end := round(count)) <= LAST * items:
        ends += [end] if not ends or end > ends[-1] else []
        count *= 1 + GROWTH
    return ends
