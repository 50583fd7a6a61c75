"""The value of a group of lm-eval tasks, from the scores of its subtasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from lm_eval.api.metrics import aggregate_subtask_metrics
from torch import Tensor

from mergesearch.errors import UserError
from mergesearch.evaluators.contract.evaluator import Metric
from mergesearch.evaluators.contract.item import Item
from mergesearch.evaluators.lm_eval.subtask import Subtask


@dataclass(frozen=True)
class SubtaskScores:
    """The scores of those of some items that belong to one subtask.

    Attributes:
        subtask: The subtask.
        indices: [indices] int64, of its items among all items.
        rows: [indices, width] float64, see ``DocumentMetric``; or margins, see ``Decisions``.
        items: All items.
    """

    subtask: Subtask
    indices: Tensor
    rows: Tensor
    items: Sequence[Item]

    @cached_property
    def weights(self) -> list[float]:
        """[indices]: the weights of its items."""
        return [self.items[index].weight for index in self.indices.tolist()]

    def value(self) -> float:
        """The subtask's value."""
        return self.subtask.document_metric.value(self.rows, self.weights)

    def contributions(self) -> Tensor:
        """[indices] float64: what its items contribute to that."""
        metric = self.subtask.document_metric
        return self.rows[:, 0] if metric.is_mean else metric.contributions(self.rows, self.weights)


class GroupAggregation:
    """How the values of subtasks become one.

    A group of lm-eval has its own aggregation: a mean that weights subtasks equally or by size. A tag, or a group
    without an aggregation, for which lm-eval's command line prints no value, has the mean of its subtasks.
    """

    def __init__(self, group: Any | None, metric: str, filter_name: str) -> None:
        """group: lm-eval's group object, if it has an aggregation. Raises UserError if that is not of ``metric``."""
        self._by_size = group is not None and _weights_by_size(group, metric, filter_name)

    def factor(self, part: SubtaskScores, parts: Sequence[SubtaskScores]) -> float:
        """The factor of a subtask's value in the group's value."""
        if self._by_size:
            return len(part.indices) / sum(len(each.indices) for each in parts)
        return 1 / len(parts)

    def value(self, parts: Sequence[SubtaskScores]) -> float:
        """The value of the group, or of the one subtask that there is."""
        return self._combined([part.value() for part in parts], parts)

    def graded_value(self, parts: Sequence[SubtaskScores], scale: float) -> float:
        """The same of the subtasks' graded values. Their rows are margins."""
        return self._combined([part.subtask.decisions.value(part.rows, scale) for part in parts], parts)

    def _combined(self, values: Sequence[float], parts: Sequence[SubtaskScores]) -> float:
        if len(values) == 1:
            return values[0]
        return float(aggregate_subtask_metrics(list(values), [len(part.indices) for part in parts], self._by_size))

    def contributions(self, parts: Sequence[SubtaskScores]) -> Tensor:
        """[items] float64. Those of a subtask are scaled so that their weighted mean over all items is its share."""
        own = [part.contributions() for part in parts]
        return self._shared(own, parts)

    def graded_contributions(self, parts: Sequence[SubtaskScores], scale: float) -> Tensor:
        """The same to the graded value. The rows of the parts are margins."""
        return self._shared([part.subtask.decisions.contributions(part.rows, scale) for part in parts], parts)

    def _shared(self, contributions_by_part: Sequence[Tensor], parts: Sequence[SubtaskScores]) -> Tensor:
        if len(parts) == 1:
            return contributions_by_part[0]
        contributions = torch.zeros(sum(len(part.indices) for part in parts), dtype=torch.float64)
        total = sum(sum(part.weights) for part in parts)
        for own, part in zip(contributions_by_part, parts, strict=True):
            contributions[part.indices] = own * (self.factor(part, parts) * total / sum(part.weights))
        return contributions


def _weights_by_size(group: Any, metric: str, filter_name: str) -> bool:
    for aggregation in group.aggregate_metric_list:
        filters = aggregation.filter_list
        if aggregation.metric == metric and (filters is None or filter_name in filters):
            return bool(aggregation.weight_by_size)
    usable = ", ".join(aggregation.metric for aggregation in group.aggregate_metric_list)
    raise UserError(
        f"metric: group {group.name!r} does not aggregate '{metric},{filter_name}'; usable metrics: {usable}"
    )


def tasks_with_metric(tasks: Sequence[Any], metric: str) -> Sequence[Any]:
    """Those of lm-eval's task objects that have the metric, as in lm-eval's groups; all if none has it."""
    return [task for task in tasks if metric.partition(",")[0] in task.aggregation()] or tasks


def common_metric(subtasks: Sequence[Subtask]) -> Metric:
    """The metric of all subtasks. Raises UserError if its direction is not the same in all of them."""
    if len({subtask.metric.higher_is_better for subtask in subtasks}) > 1:
        name = subtasks[0].metric_name
        raise UserError(f"metric: higher values of {name!r} are better in some subtasks and worse in others")
    return subtasks[0].metric
