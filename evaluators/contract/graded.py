"""Graded scores: how sure each decision of an evaluator is, as a number between 0 and 1.

A score that is right or wrong says little about a candidate, and the same forward pass knows more: how far each
decision is from turning. That is the item's *margin*, and sigmoid(margin / scale) its *grade*. A wide scale has little
noise and much bias; with the scale going to 0 the grades become the scores themselves.

The scale is a *bandwidth* times the candidate's own ``spread``. So a candidate that only flattens or sharpens its
probabilities, which multiplies all its margins by a constant, has the same grades, and gains nothing by it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Protocol, TypeGuard, runtime_checkable

from mergesearch.evaluators.contract.evaluator import Evaluator
from mergesearch.evaluators.contract.item import Item, aggregate
from mergesearch.evaluators.contract.loaded_model import LoadedModel

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST = 1e-300
"""The margin of a tie, with the sign of its score: it moves no grade, and says which way the metric decided."""


@runtime_checkable
class Graded(Protocol):
    """What an evaluator may have in addition to ``Evaluator``: margins of its decisions, and grades from them.

    Margins are float64 on the CPU, in the order of the items: [items], or [items, m] if ``graded_value`` needs m
    numbers of each. They are differences of log-probabilities, in nats, under the metric's own normalisation. A margin
    above 0 counts as right. It is infinite where nothing is to be decided: then the grade is the score, 0 or 1.

    Margins can be kept and graded later, with any scale, and by an evaluator that has seen no model.
    """

    @property
    def has_margins(self) -> bool:
        """Whether the task has margins. It has none if its metric is smooth already, or not known."""
        ...

    def score_with_margins(self, subject: LoadedModel, items: Sequence[Item]) -> tuple[Tensor, Tensor]:
        """The scores, equal to those of ``score`` to the last bit, and the margins.

        To be called only if ``has_margins`` is true. Raises what ``score`` raises.
        """
        ...

    def grades(self, items: Sequence[Item], margins: Tensor, scale: float) -> Tensor:
        """[items] float64 in [0, 1], smooth in the model's weights. scale: above 0, in nats."""
        ...

    def graded_value(self, items: Sequence[Item], margins: Tensor, scale: float) -> float:
        """The smooth counterpart of ``value``, which it becomes with the scale going to 0."""
        ...

    def graded_contributions(self, items: Sequence[Item], margins: Tensor, scale: float) -> Tensor:
        """[items] float64, whose mean, weighted by ``Item.weight``, is ``graded_value``. The grades where that is one.

        See ``Evaluator.contributions``.
        """
        ...


def is_graded(evaluator: Evaluator) -> TypeGuard[Graded]:
    """Whether the evaluator has margins. Needs no model."""
    return isinstance(evaluator, Graded) and evaluator.has_margins


def spread(margins: Tensor) -> float:
    """A candidate's own spread: the root mean square of its finite margins, in nats; 1 if none of them differs from 0.

    It is measured from 0, where decisions turn, so that it is defined for a single item and for margins that are all
    equal, and not from their mean. It is above 0, and proportional to the margins.
    """
    finite = margins[margins.isfinite()]
    largest = float(finite.abs().max()) if finite.numel() else 0.0
    if largest <= SMALLEST:
        return 1.0
    return largest * float((finite / largest).square().mean().sqrt())


def soft_decisions(margins: Tensor, scale: float) -> Tensor:
    """Grades of margins of any shape: sigmoid(margins / scale)."""
    from scipy.special import expit

    # Not torch.sigmoid, whose last bits depend on where in the tensor a number stands.
    return margins.new_tensor(expit((margins / scale).numpy()))


def decision_margin(values: Sequence[float], correct: Collection[int]) -> float:
    """How far the largest of some values is from being another one.

    Args:
        values: A number for each choice, the largest of which is chosen; among equal ones the first.
        correct: Indices of the correct choices.

    Returns:
        The best correct value less the best other one. Infinite if all choices are correct, or none is.
    """
    right = max((value for n, value in enumerate(values) if n in correct), default=-float("inf"))
    wrong = max((value for n, value in enumerate(values) if n not in correct), default=-float("inf"))
    if right != wrong:
        return right - wrong
    first = next((n for n, value in enumerate(values) if value == right), -1)
    return SMALLEST if first in correct else -SMALLEST


class GradedByMargin:
    """For evaluators with one margin per item whose value is the mean of the items' scores."""

    def grades(self, items: Sequence[Item], margins: Tensor, scale: float) -> Tensor:  # noqa: ARG002
        """See ``Graded.grades``: sigmoid(margin / scale)."""
        return soft_decisions(margins, scale)

    def graded_value(self, items: Sequence[Item], margins: Tensor, scale: float) -> float:
        """See ``Graded.graded_value``: the weighted mean of the grades."""
        return aggregate(items, self.grades(items, margins, scale))

    def graded_contributions(self, items: Sequence[Item], margins: Tensor, scale: float) -> Tensor:
        """See ``Graded.graded_contributions``: the grades themselves."""
        return self.grades(items, margins, scale)
