"""The interface of every evaluator: a model in, one score per item out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from mergesearch.evaluators.contract.item import Item, aggregate
from mergesearch.evaluators.contract.loaded_model import LoadedModel
from mergesearch.evaluators.contract.options import EvaluatorOptions, Shared

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Metric:
    """The name of an evaluator's metric, and whether higher values are better."""

    name: str
    higher_is_better: bool = True


class Evaluator(Protocol):
    """One task, scored item by item.

    The constructor gets no model. It raises UserError for invalid options. Work that needs the tokenizer is done once,
    by the first ``prepare`` or ``score``.
    """

    Options: ClassVar[type[EvaluatorOptions]]
    averages: ClassVar[bool]
    """Whether scores are computed from the model's logits alone. Then an ensemble of models can be scored too."""

    def __init__(self, options: Any, shared: Shared) -> None: ...

    @property
    def task(self) -> str: ...

    @property
    def metric(self) -> Metric: ...

    @property
    def items(self) -> Sequence[Item]: ...

    def prepare(self, subject: LoadedModel) -> Sequence[str]:
        """Checks the task against the model before the first ``score``. The weights may be any candidate's.

        Returns:
            Notes for the user, such as how many items are cut to the model's context.

        Raises:
            UserError: This model cannot be scored on this task.
        """
        ...

    def score(self, subject: LoadedModel, items: Sequence[Item]) -> Tensor:
        """Scores the items.

        An item's score does not depend on the order of the items. Which other items are scored with it changes at most
        the last bits of a floating-point sum.

        Returns:
            float64 on the CPU, in the order of ``items``: [items], or [items, k] if ``value`` needs k numbers of each.

        Raises:
            FloatingPointError: The model's output is not a number. The message names the item.
        """
        ...

    def value(self, items: Sequence[Item], scores: Tensor) -> float:
        """The task's value over these items, from their scores."""
        ...

    def contributions(self, items: Sequence[Item], scores: Tensor) -> Tensor:
        """[items] float64: what each item contributes to the value. Comparisons of candidates pair these numbers.

        Their mean, weighted by ``Item.weight``, is ``value``.
        """
        ...


def has_contributions(evaluator: Evaluator) -> bool:
    """Whether ``contributions`` show how the value varies from sample to sample; for a median they do not.

    False only for evaluators with an attribute ``has_contributions`` that is false.
    """
    return bool(getattr(evaluator, "has_contributions", True))


class EvaluatorDefaults:
    """For evaluators that have nothing to check against the model, and that an ensemble cannot be scored by."""

    averages: ClassVar[bool] = False

    def prepare(self, subject: LoadedModel) -> Sequence[str]:  # noqa: ARG002
        """See ``Evaluator.prepare``: no notes."""
        return []


class MeanOfItems(EvaluatorDefaults):
    """For evaluators whose value is the mean of their items' scores, weighted by ``Item.weight``."""

    def value(self, items: Sequence[Item], scores: Tensor) -> float:
        """See ``Evaluator.value``."""
        return aggregate(items, scores)

    def contributions(self, items: Sequence[Item], scores: Tensor) -> Tensor:  # noqa: ARG002
        """See ``Evaluator.contributions``: the scores themselves."""
        return scores
