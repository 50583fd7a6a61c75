"""Examples before the questions of a task, for evaluators whose prompts have some."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from mergesearch.evaluators.contract.item import Item


@runtime_checkable
class TakesExamples(Protocol):
    """What an evaluator may have in addition to ``Evaluator``: prompts with answered examples."""

    def separate_examples(self, test: Sequence[Item]) -> Sequence[str]:
        """Keeps these test items, of any task, and each item itself out of the examples. To be called once.

        Near-duplicates are kept out too. To be called before the first ``prepare`` or ``score``.

        Returns:
            How the examples are drawn, for the user.

        Raises:
            UserError: Too few documents for examples are left.
        """
        ...
