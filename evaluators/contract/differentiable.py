"""Losses of a task's items, for evaluators that offer gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from mergesearch.evaluators.contract.evaluator import Evaluator
from mergesearch.evaluators.contract.item import Item
from mergesearch.evaluators.contract.loaded_model import LoadedModel

if TYPE_CHECKING:
    from torch import Tensor

LossKind = Literal["targets", "entropy", "graded"]
"""targets: how far the model is from the correct answers. entropy: how unsure it is of its answers. graded: one less
the items' grades, for evaluators with margins."""


class Targets(Protocol):
    """The correct answers to some items, for one loaded model."""

    @property
    def has_gold(self) -> bool:
        """Whether the correct answer to every item is known."""
        ...

    def losses(self, kind: LossKind, scale: float = 1.0) -> Iterator[Tensor]:
        """Scalars with a graph, to be backpropagated one by one. Their sum is the weighted mean over the items.

        scale: Of the grades, in nats, see ``Graded``; a constant of the loss.
        """
        ...


@runtime_checkable
class Differentiable(Protocol):
    """What an evaluator may have in addition to ``Evaluator``: losses with gradients."""

    @property
    def has_targets(self) -> bool:
        """Whether the task has answers that a loss can be computed of.

        A task that generates text has none if no correct text is known.
        """
        ...

    def targets(self, subject: LoadedModel, items: Sequence[Item]) -> Targets:
        """The correct answers to these items. To be called only if ``has_targets`` is true."""
        ...


def has_targets(evaluator: Evaluator) -> bool:
    """Whether the evaluator offers losses with gradients. Needs no model."""
    return isinstance(evaluator, Differentiable) and evaluator.has_targets
