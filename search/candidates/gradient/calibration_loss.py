"""The calibration loss: what the gradient start descends on, and what learned soups learn from."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mergesearch.errors import UserError
from mergesearch.evaluators import Differentiable, Item, LoadedModel, LossKind, has_targets
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.problem.tasks import Task
from mergesearch.seeds import derive


class CalibrationLoss:
    """The loss of the live model on a batch of the search items, the tasks weighted as in the objective.

    ``share`` is the batch's share of each task's items. ``kind``: None takes ``targets`` where the items have any, else
    ``entropy``. ``seed`` is the run's. Raises UserError where no task has targets.
    """

    def __init__(self, tasks: TaskSet, model: LoadedModel, share: float, kind: LossKind | None, seed: int) -> None:
        self._seed, self._share, self._model = seed, share, model
        able = [task for task in tasks.counted("search") if has_targets(task.evaluator)]
        gold = [task for task in able if self._targets(task).has_gold]
        self.kind: LossKind = kind or ("targets" if gold else "entropy")
        self.tasks: Sequence[Task] = gold if self.kind == "targets" else able
        if not self.tasks:
            raise UserError(
                "search.gradient.loss: found targets, but no task knows the right answer of every item; use entropy, "
                "which needs none"
            )

    def _targets(self, task: Task, items: Sequence[Item] | None = None) -> Any:
        assert isinstance(task.evaluator, Differentiable)
        return task.evaluator.targets(self._model, task.search if items is None else items)

    def backward(self, step: int) -> float:
        """The loss on the items of one step. Its gradients are left on the model's parameters."""
        total, weights = 0.0, sum(task.weight for task in self.tasks)
        for task in self.tasks:
            for loss in self._targets(task, self.items(task, step)).losses(self.kind):
                weighted = loss * (task.weight / weights)
                weighted.backward()
                total += weighted.item()
        return total

    def count(self, step: int) -> int:
        """How many items one step uses."""
        return sum(len(self.items(task, step)) for task in self.tasks)

    def items(self, task: Task, step: int) -> list[Item]:
        """The batch of one step. Every pass over a task's items is a random permutation of its own."""
        count = max(round(self._share * len(task.search)), 1)
        steps = max(len(task.search) // count, 1)
        epoch, batch = divmod(step, steps)
        order = np.random.default_rng(derive(self._seed, "gradient", task.name, epoch)).permutation(len(task.search))
        return [task.search[number] for number in order[batch * count : (batch + 1) * count]]
