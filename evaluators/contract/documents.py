"""Items as people read them: the question, the right answer, the choices, and what a model answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from mergesearch.evaluators.contract.evaluator import Evaluator
from mergesearch.evaluators.contract.item import Item


@dataclass(frozen=True)
class Document:
    """What an item is about, for people to read.

    Attributes:
        question: The question or the text, without examples before it.
        right: The right answer. Empty where there is none, or it is not known.
        choices: The answers that can be given, of which ``right`` is one. Empty where there are none.
    """

    question: str
    right: str = ""
    choices: Sequence[str] = ()


@runtime_checkable
class Describes(Protocol):
    """What an evaluator may have in addition to ``Evaluator``, where ``Item.text`` is not all there is to read."""

    def describe(self, items: Sequence[Item]) -> list[Document]:
        """The documents of these items, in their order. Needs no model."""
        ...


@runtime_checkable
class Answers(Protocol):
    """What an evaluator may have in addition to ``Evaluator``, where a model's answer is more than its score."""

    def answers(self, items: Sequence[Item]) -> list[str]:
        """What the model that was scored last answered to each of these items, which it was scored on.

        Of an answer that is one of the ``choices``, its text; empty where nothing is known beside the score.
        """
        ...


def documents_of(evaluator: Evaluator, items: Sequence[Item]) -> list[Document]:
    """The documents of these items; of an evaluator that does not describe them, or fails to, as much as is known."""
    try:
        return evaluator.describe(items) if isinstance(evaluator, Describes) else _plain(items)
    except Exception:  # a task's code may raise anything, and its items can do without
        return _plain(items)


def _plain(items: Sequence[Item]) -> list[Document]:
    return [Document(item.text or item.id) for item in items]


def answers_of(evaluator: Evaluator, items: Sequence[Item]) -> list[str]:
    """The answers of the model that was scored last; empty ones where the evaluator tells none, or fails to."""
    try:
        return evaluator.answers(items) if isinstance(evaluator, Answers) else [""] * len(items)
    except Exception:  # a task's code may raise anything, and its scores can do without
        return [""] * len(items)
