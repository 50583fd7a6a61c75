"""What a model is scored on: evaluators with their items split, and how their values become one number."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from mergesearch.errors import UserError, listed
from mergesearch.evaluators import Evaluator, Item, aggregate, has_contributions, open_evaluator, split_items
from mergesearch.merge_ops.live.quantized import check_available
from mergesearch.search.config import Evaluate, TaskEntry
from mergesearch.search.config.constraints import check_tasks
from mergesearch.search.problem.objective import Objective, Share
from mergesearch.search.statistics import Stratum

Scores = dict[str, Tensor]
"""Each task's scores, one float64 per item of one side of the split."""


@dataclass(frozen=True)
class Task:
    """An evaluator with its items on each side of the split, and its share in the objective.

    ``normalize``: whether the objective takes its values normalised, by ``chance`` where that is said, or by what the
    items say of themselves.
    """

    name: str
    evaluator: Evaluator
    weight: float
    search: Sequence[Item]
    test: Sequence[Item]
    normalize: bool = False
    chance: float | None = None

    def items(self, side: str) -> Sequence[Item]:
        """The items of ``search`` or ``test``."""
        return self.search if side == "search" else self.test

    def value(self, side: str, scores: Tensor) -> float:
        """The metric over one side's items."""
        return self.evaluator.value(self.items(side), scores)

    def contributions(self, side: str, scores: Tensor) -> Tensor:
        """[items] float64: what each of one side's items adds to the metric; see ``Evaluator.contributions``."""
        return self.evaluator.contributions(self.items(side), scores)

    @property
    def is_averaged(self) -> bool:
        """Whether its scores come from logits, which an ensemble averages."""
        return bool(getattr(self.evaluator, "averages", False))

    def stratum(self, side: str, scores: Tensor) -> Stratum:
        """One side's scores as comparisons of the metric take them."""
        return self._stratum(self.items(side), scores)

    def strata(self, side: str, scores: Tensor) -> list[Stratum]:
        """One side's scores as comparisons of the objective take them: by part."""
        return [self._stratum(items, scores[places]) for items, places in self._parts(side)]

    def values(self, side: str, scores: Tensor) -> list[float]:
        """What the objective takes of one side's scores: the metric over each part."""
        return [self.evaluator.value(items, scores[places]) for items, places in self._parts(side)]

    def share(self, side: str) -> Share:
        """The task's part in that side's objective. Raises UserError where it has no chance level to normalise by."""
        chances = [self._chance(items) for items, _ in self._parts(side)] if self.normalize else ()
        return Share(self.name, self.weight, self.evaluator.metric, chances)

    def _stratum(self, items: Sequence[Item], scores: Tensor) -> Stratum:
        contributions = self.evaluator.contributions(items, scores).tolist()
        return Stratum.of([item.fingerprint for item in items], [item.weight for item in items], contributions)

    def _parts(self, side: str) -> list[tuple[Sequence[Item], list[int]]]:
        """One side's items with their places; of a group that is normalised, each subtask's by themselves."""
        items = self.items(side)
        names = dict.fromkeys(item.part for item in items) if self.normalize else {}
        if len(names) < 2:
            return [(items, list(range(len(items))))]
        places = [[n for n, item in enumerate(items) if item.part == name] for name in names]
        return [([items[n] for n in part], part) for part in places]

    def _chance(self, items: Sequence[Item]) -> float:
        if self.chance is not None:
            return self.chance
        if not self.evaluator.metric.higher_is_better:
            return 0.0  # Objective refuses it, whatever the chance
        known = [item.chance for item in items if item.chance is not None]
        if len(known) < len(items):
            raise UserError(
                f"normalize: what guessing scores in task {self.name!r} is not known; say chance: 0.25, for example"
            )
        return aggregate(items, known)


def open_tasks(evaluate: Evaluate) -> list[Task]:
    """The tasks with their items split. Raises UserError for a task that is unknown or cannot be split."""
    if not evaluate.test_tasks and evaluate.split is None:
        raise UserError("evaluate: expected split (search and test items) or test_tasks, found neither")
    try:
        tasks = _opened(evaluate)
        _check_contributions(evaluate, tasks)
        for side in ("search", "test"):
            objective_of(evaluate, tasks, side)
        check_tasks(evaluate.constraints, {task.name: task.evaluator.metric for task in tasks if task.search})
        if evaluate.ensemble:
            _check_averaged(tasks)
        if evaluate.quantization:
            check_available()
    except UserError as error:
        raise UserError(f"evaluate: {error}") from None
    return tasks


def _opened(evaluate: Evaluate) -> list[Task]:
    if evaluate.split:
        fraction, seed = evaluate.split.search, evaluate.split.seed
        return _distinct([_task(evaluate, entry, fraction, seed) for entry in evaluate.tasks])
    searched = [_task(evaluate, entry, 1.0, 0) for entry in evaluate.tasks]
    return _distinct([*searched, *(_task(evaluate, entry, 0.0, 0) for entry in evaluate.test_tasks)])


def counted(tasks: Sequence[Task], side: str) -> list[Task]:
    """The tasks that count in the objective of that side."""
    return [task for task in tasks if task.items(side) and task.weight]


def objective_of(evaluate: Evaluate, tasks: Sequence[Task], side: str) -> Objective:
    """How the values of the counted tasks become one number. Raises UserError where no verdict can be held on them."""
    found = counted(tasks, side)
    if all(len(task.items(side)) == 1 for task in found) and side == "test":
        weighted = [task for task in tasks if task.weight]
        whole = listed(repr(task.name) for task in weighted)
        items = sum(len(task.evaluator.items) for task in weighted)
        if items > len(weighted):
            raise UserError(f"tasks: {whole}: {items} items are too few for a search and a verdict, expected more")
        raise UserError(
            f"tasks: {whole}: one number for the whole model, and no items to hold a verdict on; give the scores by "
            "item, or add a task that has items"
        )
    return Objective([task.share(side) for task in found], evaluate.aggregate)


def _check_contributions(evaluate: Evaluate, tasks: Sequence[Task]) -> None:
    guarded = {constraint.task for constraint in evaluate.constraints}
    for task in tasks:
        if (task.weight or task.name in guarded) and not has_contributions(task.evaluator):
            raise UserError(
                f"task {task.name!r}: no item adds a share to its {task.evaluator.metric.name}, as to a median, so "
                "that no interval of it can be told: say weight: 0 (and no constraint) to see it in the report, or "
                "take another metric, such as one that is aggregated by a mean"
            )


def _check_averaged(tasks: Sequence[Task]) -> None:
    others = [repr(task.name) for task in tasks if task.weight and not task.is_averaged]
    if others:
        raise UserError(
            f"ensemble: there are no logits to average in {listed(others)}: give weight 0, or say ensemble: false"
        )


def _task(evaluate: Evaluate, entry: TaskEntry, fraction: float, seed: int) -> Task:
    evaluator = open_evaluator(entry.evaluator, entry.options, evaluate.shared())
    search, test = _sides(list(evaluator.items), fraction, seed)
    normalize = (entry.normalize or evaluate.normalize) == "leaderboard"
    return Task(evaluator.task, evaluator, entry.weight, search, test, normalize, entry.chance)


def _sides(items: list[Item], fraction: float, seed: int) -> tuple[list[Item], list[Item]]:
    """A single item, one number for the whole model, is the search's: no part of it was never looked at."""
    if fraction in (0.0, 1.0):
        return (items, []) if fraction else ([], items)
    return (items, []) if len(items) == 1 else split_items(items, fraction, seed)


def _distinct(tasks: list[Task]) -> list[Task]:
    """Tasks asked for several metrics are told apart by them."""
    names = [task.name for task in tasks]
    named = [
        replace(task, name=f"{task.name}:{task.evaluator.metric.name}") if names.count(task.name) > 1 else task
        for task in tasks
    ]
    labels = [task.name for task in named]
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(f"tasks: {label} is listed {labels.count(label)} times, expected once")
    return named
