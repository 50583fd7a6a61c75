"""The calibration loss: what the gradient start descends on, and what learned soups learn from."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from mergesearch.errors import UserError, listed
from mergesearch.evaluators import Differentiable, Item, LoadedModel, LossKind, has_targets
from mergesearch.evaluators.contract.graded import Graded, is_graded, spread
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.problem.tasks import Task
from mergesearch.seeds import derive

NEIGHBOURS = 8
"""Neighbouring items that come into a batch together: they often begin alike, and what they share is computed once."""


class CalibrationLoss:
    """The loss of the live model on a batch of the search items, the tasks weighted as in the objective.

    ``tasks`` are the run's, of whose search items it uses those in ``items``; None: all. ``share`` is the batch's share
    of each task's items. ``kind``: None takes for each task the first of ``graded``, ``targets`` and ``entropy`` that
    it has; a task without targets is left out where others have any. ``seed`` is the run's. Raises UserError where no
    task has the loss.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what a loss is of
        self,
        tasks: TaskSet,
        model: LoadedModel,
        share: float,
        kind: LossKind | None,
        seed: int,
        items: Mapping[str, Sequence[Item]] | None = None,
    ) -> None:
        self._seed, self._share, self._model = seed, share, model
        self._items = tasks.items("search") if items is None else items
        self._able = [task for task in tasks.counted("search") if has_targets(task.evaluator)]
        self._kind = kind
        self.scales = {task.name: 1.0 for task in self._able}
        """Of the grades, by task; see ``measure_scales``."""
        if not self.kinds:
            needs = {"graded": "has margins and knows the right answer of every item"}
            raise UserError(
                f"search.gradient.loss: found {kind}, but no task "
                f"{needs.get(str(kind), 'knows the right answer of every item')}; use entropy, which needs none"
            )

    @cached_property
    def kinds(self) -> dict[str, LossKind]:
        """The loss of each task that has one."""
        gold = [task for task in self._able if self._targets(task, task.search).has_gold]
        graded = [task.name for task in gold if self._kind != "targets" and is_graded(task.evaluator)]
        if self._kind == "entropy" or (self._kind is None and not gold):
            return {task.name: "entropy" for task in self._able}
        targets = [] if self._kind == "graded" else [task.name for task in gold if task.name not in graded]
        return {**dict.fromkeys(graded, "graded"), **dict.fromkeys(targets, "targets")}

    @property
    def tasks(self) -> list[Task]:
        """The tasks that have the loss."""
        return [task for task in self._able if task.name in self.kinds]

    @property
    def described(self) -> str:
        """Which loss of which tasks, for the user."""
        kinds = sorted(set(self.kinds.values()))
        of_kind = {kind: listed(name for name, own in self.kinds.items() if own == kind) for kind in kinds}
        return ", and ".join(f"the loss ({kind}) of {names}" for kind, names in of_kind.items())

    def measure_scales(self, bandwidth: float, step: int) -> None:
        """Sets the scale of each task's grades: ``bandwidth`` times the live model's own spread on a step's items."""
        for task in self.tasks:
            if self.kinds[task.name] == "graded":
                assert is_graded(task.evaluator)
                evaluator: Graded = task.evaluator
                _, margins = evaluator.score_with_margins(self._model, self.items(task, step))
                self.scales[task.name] = bandwidth * spread(margins)

    def _targets(self, task: Task, items: Sequence[Item]) -> Any:
        assert isinstance(task.evaluator, Differentiable)
        return task.evaluator.targets(self._model, items)

    def backward(self, step: int) -> float:
        """The loss on the items of one step. Its gradients are left on the model's parameters."""
        total, weights = 0.0, sum(task.weight for task in self.tasks)
        for task in self.tasks:
            targets = self._targets(task, self.items(task, step))
            for loss in targets.losses(self.kinds[task.name], self.scales[task.name]):
                weighted = loss * (task.weight / weights)
                weighted.backward()
                total += weighted.item()
        return total

    def count(self, step: int) -> int:
        """How many items one step uses."""
        return sum(len(self.items(task, step)) for task in self.tasks)

    def items(self, task: Task, step: int) -> list[Item]:
        """The batch of one step. Every pass over a task's items takes runs of neighbours in a random order of its own.

        A batch has eight runs or more, or as many as it has items.
        """
        own = self._items[task.name]
        count = max(round(self._share * len(own)), 1)
        epoch, batch = divmod(step, max(len(own) // count, 1))
        run = min(max(count // 8, 1), NEIGHBOURS)
        begins = range(0, len(own), run)
        order = np.random.default_rng(derive(self._seed, "gradient", task.name, epoch)).permutation(begins)
        numbers = [n for begin in order for n in range(begin, min(begin + run, len(own)))]
        return [own[n] for n in sorted(numbers[batch * count : (batch + 1) * count])]
