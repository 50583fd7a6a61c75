"""Scores from any Python function of a model and its tokenizer."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from mergesearch.errors import UserError
from mergesearch.evaluators.contract.evaluator import EvaluatorOptions, Item, LoadedModel, MeanOfItems, Metric, Shared
from mergesearch.evaluators.tasks.external import checked, items_of
from mergesearch.plugins import load

if TYPE_CHECKING:
    from torch import Tensor


class FunctionOptions(EvaluatorOptions):
    """Which function, and what its numbers are called."""

    function: str = Field(min_length=1, description="'module:name' or 'path/to/file.py:name'")
    metric: str = Field("score", min_length=1, description="What the number is called")
    higher_is_better: bool = True


class Function(MeanOfItems):
    """See ``Evaluator``. The function is called as ``function(model, tokenizer)``, without gradients.

    It returns a number for each item, ``{item: float}``, where it has an attribute ``items``: their names, or their
    contents by name, by which equal ones stay on one side of a split. Where it takes a third argument ``items``, that
    is the names asked for; otherwise it is called for all of them whichever are wanted. The task's value is the mean.

    Without ``items`` it returns one float for the whole model, which can be searched for, but no verdict can be held on
    it. An exception fails the candidate.
    """

    Options: ClassVar[type[EvaluatorOptions]] = FunctionOptions

    def __init__(self, options: FunctionOptions, shared: Shared) -> None:  # noqa: ARG002
        self.task = options.task
        self.metric = Metric(options.metric, options.higher_is_better)
        self._function = load(options.function)
        if not callable(self._function):
            raise UserError(f"function: {options.function} is {self._function!r}, expected a function")
        self.items = items_of(self.task, getattr(self._function, "items", None))
        self._takes_items = "items" in _parameters(self._function, options.function)

    def score(self, subject: LoadedModel, items: Sequence[Item]) -> Tensor:
        """See ``Evaluator.score``."""
        import torch

        if not items:
            return torch.empty(0, dtype=torch.float64)
        chosen = {"items": [item.id for item in items]} if self._takes_items else {}
        with torch.no_grad():
            answer = self._function(subject.model, subject.tokenizer, **chosen)
        return checked(self.task, self.items, items, answer)


def _parameters(function: Any, name: str) -> Sequence[str]:
    """The names of the function's parameters; raises UserError where it cannot be called with two."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # written in C
        return ()
    try:
        signature.bind(None, None, **({"items": []} if "items" in signature.parameters else {}))
    except TypeError as error:
        raise UserError(
            f"function: {name}{signature}: expected (model, tokenizer) or (model, tokenizer, items): {error}"
        ) from None
    return list(signature.parameters)
