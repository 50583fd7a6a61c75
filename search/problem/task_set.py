"""The tasks of a run together: what a model is scored on, and how the values become one number, or several."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mergesearch.errors import Problems, UserError, listed, located
from mergesearch.evaluators import Item, LoadedModel, answers_of, content_hash, has_contributions
from mergesearch.merge_ops.live.quantized import check_available
from mergesearch.search.config.constraints import Constraint, check_tasks
from mergesearch.search.config.evaluate import Aggregation, Evaluate
from mergesearch.search.problem.objective import Objective
from mergesearch.search.problem.sides import left_items, separated_examples, with_split, without_test_items
from mergesearch.search.problem.tasks import Margins, Scores, Task, distinct, opened_task
from mergesearch.search.statistics import Stratum
from mergesearch.search.study.direction import Direction


@dataclass(frozen=True)
class TaskSet:
    """The tasks of a run, how their values are aggregated, and the constraints on them.

    ``side`` is ``search`` or ``test`` throughout. ``notes`` say how the items were kept apart.
    """

    all: Sequence[Task]
    aggregate: Aggregation = "mean"
    constraints: Sequence[Constraint] = ()
    notes: Sequence[str] = ()

    def __iter__(self) -> Iterator[Task]:
        return iter(self.all)

    def items(self, side: str) -> dict[str, Sequence[Item]]:
        """The items of one side by task."""
        return {task.name: task.items(side) for task in self.all}

    @property
    def test_digest(self) -> str:
        """A digest of the test items."""
        return content_hash([[task.name, item.id, item.fingerprint] for task in self.all for item in task.test])

    def counted(self, side: str) -> list[Task]:
        """The tasks that count in the objective of that side."""
        return [task for task in self.all if task.items(side) and task.weight]

    @property
    def searched(self) -> list[Task]:
        """The tasks that every candidate is scored on: those of the search's objective and of the constraints."""
        constrained = {constraint.task for constraint in self.constraints}
        return [task for task in self.all if task.search and (task.weight or task.name in constrained)]

    @property
    def search_items(self) -> int:
        """How many items a candidate is scored on in full."""
        return sum(len(task.search) for task in self.searched)

    @property
    def directions(self) -> dict[str, Direction] | None:
        """The direction of each objective of the search by its task; None where the search has a single objective."""
        return self.objective("search").directions if self.aggregate == "pareto" else None

    def prepare(self, model: LoadedModel) -> list[str]:
        """Checks every task against the model before anything is scored. Returns notes; raises UserError."""
        return [*self.notes, *(note for task in self.all for note in task.prepare(model))]

    def score(self, model: LoadedModel, side: str, tasks: Sequence[Task] | None = None) -> Scores:
        """Scores a model on the items of one side, of these tasks or of all."""
        chosen = self.all if tasks is None else tasks
        return {task.name: task.score(model, task.items(side)) for task in chosen if task.items(side)}

    def score_with_margins(
        self, model: LoadedModel, side: str, tasks: Sequence[Task] | None = None
    ) -> tuple[Scores, Margins]:
        """``score``, and the margins of the tasks that are graded."""
        chosen = [task for task in (self.all if tasks is None else tasks) if task.items(side)]
        scored = {task.name: task.score_with_margins(model, task.items(side)) for task in chosen}
        margins = {name: margins for name, (_, margins) in scored.items() if margins is not None}
        return {name: scores for name, (scores, _) in scored.items()}, margins

    def answers(self, side: str, tasks: Sequence[Task]) -> dict[str, list[str]]:
        """What the model that was scored last answered to one side's items of these tasks; see ``Answers``."""
        return {task.name: answers_of(task.evaluator, task.items(side)) for task in tasks if task.items(side)}

    def values(self, side: str, scores: Mapping[str, Tensor]) -> dict[str, float]:
        """The metric of each task that has scores."""
        return {task.name: task.value(side, scores[task.name]) for task in self.all if task.name in scores}

    def strata(self, side: str, scores: Mapping[str, Tensor]) -> list[Stratum]:
        """One candidate's scores, task by task, in the form in which the objective is compared."""
        return [stratum for task in self.counted(side) for stratum in task.strata(side, scores[task.name])]

    def objective(self, side: str) -> Objective:
        """How the values of the counted tasks become one number. Raises UserError where no verdict is possible."""
        tasks = self.counted(side)
        if side == "test" and all(len(task.test) == 1 for task in tasks):
            raise self._nothing_to_judge()
        return Objective([task.share(side) for task in tasks], self.aggregate)

    def combined(self, side: str, scores: Mapping[str, Tensor]) -> float:
        """One candidate's objective, which the search maximises; of several objectives their weighted sum."""
        return float(self.objective(side).combine(self._objective_values(side, scores)))

    def each(self, side: str, scores: Mapping[str, Tensor]) -> list[float]:
        """One candidate's objectives, task by task."""
        values: list[float] = self.objective(side).each(self._objective_values(side, scores)).tolist()
        return values

    def _objective_values(self, side: str, scores: Mapping[str, Tensor]) -> NDArray[np.float64]:
        return np.array([value for task in self.counted(side) for value in task.values(side, scores[task.name])])

    def _nothing_to_judge(self) -> UserError:
        weighted = [task for task in self.all if task.weight]
        names = listed(repr(task.name) for task in weighted)
        items = sum(len(task.used) for task in weighted)
        if items > len(weighted):
            return UserError(f"tasks: {names}: {items} items are too few for a search and a verdict, expected more")
        return UserError(
            f"tasks: {names}: found one number for the whole model and no items, which no verdict can be held on; "
            "return scores by item, or add a task that has items"
        )


def open_tasks(evaluate: Evaluate, calibration: Sequence[str] = (), keeps_margins: bool = False) -> TaskSet:
    """The config's tasks, checked; nothing that the search looks at shares content with a test item.

    ``calibration``: see ``calibration_texts``; ``keeps_margins``: see ``Task``. Raises UserError for a task that is
    unknown, or cannot be split or combined.
    """
    if not evaluate.test_tasks and evaluate.split is None:
        raise UserError("evaluate: expected split (search and test items) or test_tasks, found neither")
    with located("evaluate"):
        opened, notes = _opened(evaluate, calibration)
        opened = [replace(task, keeps_margins=keeps_margins) for task in opened]
        notes += [*left_items(opened), *separated_examples(opened)]
        tasks = TaskSet(opened, evaluate.aggregate, evaluate.constraints, notes)
        _check_contributions(tasks)
        for side in ("search", "test"):
            tasks.objective(side)
        check_tasks(evaluate.constraints, {task.name: task.evaluator.metric for task in tasks if task.search})
        if evaluate.ensemble:
            _check_averaged(tasks)
        if evaluate.quantization:
            check_available()
    return tasks


def _opened(evaluate: Evaluate, calibration: Sequence[str]) -> tuple[list[Task], list[str]]:
    """The config's tasks with their items split, and notes about it."""
    problems, entries = Problems(), [("search", entry) for entry in evaluate.tasks]
    entries += [("test", entry) for entry in evaluate.test_tasks]
    opened = [problems.attempt(opened_task, evaluate, entry, side) for side, entry in entries]
    problems.check()
    tasks, count = distinct([task for task in opened if task]), len(evaluate.tasks)
    if evaluate.split:
        return with_split(tasks, evaluate.split, calibration), []
    searched, notes = without_test_items(tasks[:count], tasks[count:])
    return [*searched, *tasks[count:]], notes


def _check_contributions(tasks: TaskSet) -> None:
    constrained = {constraint.task for constraint in tasks.constraints}
    for task in tasks:
        if (task.weight or task.name in constrained) and not has_contributions(task.evaluator):
            raise UserError(
                f"task {task.name!r}: {task.evaluator.metric.name} is no mean over items (a median, for example), so "
                "it has no interval; set weight: 0 and no constraint to show it in the report only, or take a metric "
                "that is aggregated by a mean"
            )


def _check_averaged(tasks: TaskSet) -> None:
    others = [repr(task.name) for task in tasks if task.weight and not task.is_averaged]
    if others:
        raise UserError(
            f"ensemble: {listed(others)} gives no logits to average; set its weight to 0, or ensemble: false"
        )
