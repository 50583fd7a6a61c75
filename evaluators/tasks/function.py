"""Scores from a Python function of the model and its tokenizer."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from mergesearch.errors import UserError
from mergesearch.evaluators.contract.evaluator import MeanOfItems, Metric
from mergesearch.evaluators.contract.identity import named_files, source_files
from mergesearch.evaluators.contract.item import Item
from mergesearch.evaluators.contract.loaded_model import LoadedModel
from mergesearch.evaluators.contract.options import EvaluatorOptions, OnDisk, Shared
from mergesearch.evaluators.tasks.external import checked_scores, external_items
from mergesearch.plugins import load
from mergesearch.trust import tell_code

if TYPE_CHECKING:
    from torch import Tensor


class FunctionOptions(EvaluatorOptions):
    """The function, and the name and direction of its metric."""

    function: Annotated[str, OnDisk("code")] = Field(
        min_length=1, description="'module:name' or 'path/to/file.py:name'"
    )
    metric: str = Field("score", min_length=1, description="Name of the metric")
    higher_is_better: bool = True


class Function(MeanOfItems):
    """See ``Evaluator``. The function is called as ``function(model, tokenizer)``, without gradients.

    If the function has an attribute ``items``, it returns ``{item: float}``. The attribute has the items' names, or
    their contents by name; items with equal contents stay on the same side of a split. If the function also takes an
    argument ``items``, it gets the names of the items to score; otherwise it scores all items in every call. The task's
    value is the mean.

    Without the attribute ``items`` the function returns one float for the whole model. A search can optimize it, but
    there is no verdict on it. If the function raises an exception, the candidate fails.
    """

    Options: ClassVar[type[EvaluatorOptions]] = FunctionOptions

    def __init__(self, options: FunctionOptions, shared: Shared) -> None:  # noqa: ARG002
        self.task = options.task
        self.metric = Metric(options.metric, options.higher_is_better)
        tell_code(options.function)
        self._function = load(options.function)
        if not callable(self._function):
            raise UserError(f"function: {options.function} is {self._function!r}, expected a function")
        self.items = external_items(self.task, getattr(self._function, "items", None))
        self._takes_items = "items" in _parameters(self._function, options.function)

    def code(self) -> Mapping[str, object]:
        """See ``HasCode``: the file of the function, and what it imports from its folder."""
        return named_files(source_files([self._function]))

    def score(self, subject: LoadedModel, items: Sequence[Item]) -> Tensor:
        """See ``Evaluator.score``."""
        import torch

        if not items:
            return torch.empty(0, dtype=torch.float64)
        arguments = {"items": [item.id for item in items]} if self._takes_items else {}
        with torch.no_grad():
            result = self._function(subject.model, subject.tokenizer, **arguments)
        return checked_scores(self.task, self.items, items, result)


def _parameters(function: Any, name: str) -> Sequence[str]:
    """The names of the function's parameters. Raises UserError if it cannot be called as documented."""
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
