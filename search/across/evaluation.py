"""A model's scores on the tasks of a config: values with intervals, and scores by item."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf, isinf
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mergesearch.errors import located
from mergesearch.evaluators import has_contributions
from mergesearch.notebook import paragraph, table
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.problem.tasks import Scores, Task
from mergesearch.search.statistics import Estimate, estimated, value_of
from mergesearch.search.verdict.formatting import interval
from mergesearch.seeds import derive

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class TaskScore:
    """A model's score on a task.

    Attributes:
        task: the task.
        metric: the name of its metric.
        items: how many items were scored.
        value: the metric over them, with its 95 % interval; without one where the metric is no mean over items.
    """

    task: str
    metric: str
    items: int
    value: Estimate


@dataclass(frozen=True)
class Evaluation:
    """A model's scores on the tasks of a config, by the tasks' names.

    ``rows`` has the task, the split, the id and the score of each item; see ``items``.
    """

    model: str
    scores: Mapping[str, TaskScore]
    rows: Sequence[tuple[str, str, str, Any]] = field(default=(), repr=False)

    @classmethod
    def of(cls, model: str, tasks: TaskSet, scores: Scores, seed: int) -> "Evaluation":
        """From the scores on all used items. Raises UserError where a value cannot be computed."""
        found = {}
        for task in tasks:
            with located(model), task.refusals():
                value = _estimate(task, scores[task.name], seed)
            found[task.name] = TaskScore(task.evaluator.task, task.evaluator.metric.name, len(task.used), value)
        return cls(model, found, [row for task in tasks for row in _rows(task, scores[task.name])])

    @property
    def items(self) -> "DataFrame":
        """A row for each item: task, split (``search`` or ``test``), item (its id), and score.

        The score is a number, or a list for tasks that take several numbers of an item.
        """
        from pandas import DataFrame

        return DataFrame(self.rows, columns=["task", "split", "item", "score"])

    def to_json(self) -> dict[str, Any]:
        """``{"model": ..., "items": {TASK: count}, "tasks": {TASK: {METRIC: value}}, "intervals": ...}``.

        ``intervals`` has ``[low, high]`` in place of the values, null where nothing bounds them.
        """
        found: dict[str, Any] = {"model": self.model, "items": {}, "tasks": {}, "intervals": {}}
        for name, score in self.scores.items():
            found["items"][name] = score.items
            found["tasks"].setdefault(score.task, {})[score.metric] = score.value.value
            ends = [None if isinf(end) else end for end in (score.value.low, score.value.high)]
            found["intervals"].setdefault(score.task, {})[score.metric] = ends
        return found

    def __str__(self) -> str:
        return "\n".join(f"{task:<24} {metric:<16} {value}" for task, metric, _, value in self._cells)

    def _repr_html_(self) -> str:
        return paragraph(self.model, strong=True) + table(("task", "metric", "items", "value"), self._cells)

    @property
    def _cells(self) -> list[tuple[str, str, str, str]]:
        scores = self.scores.values()
        return [(each.task, each.metric, f"{each.items:,}", interval(each.value, digits=4)) for each in scores]


def _estimate(task: Task, scores: Tensor, seed: int) -> Estimate:
    value = task.evaluator.value(task.used, scores)
    if not has_contributions(task.evaluator):
        return Estimate(value, -inf, inf)
    contrast = value_of([task.stratum_of(task.used, scores)], lambda values: values[0])
    return replace(estimated(contrast, derive(seed, "sign flips")), value=value)


def _rows(task: Task, scores: Tensor) -> Iterator[tuple[str, str, str, Any]]:
    searched = {item.id for item in task.search}
    for item, score in zip(task.used, scores.tolist(), strict=True):
        yield task.name, "search" if item.id in searched else "test", item.id, score
