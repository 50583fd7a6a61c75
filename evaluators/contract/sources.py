"""Where the items of a task come from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from mergesearch.evaluators.contract.evaluator import Evaluator


@dataclass(frozen=True)
class Source:
    """A data set on the Hugging Face Hub that a task's items are of.

    ``task`` is what the owner of the task calls it; ``config`` and ``split`` are as ``datasets.load_dataset`` has them.
    """

    task: str
    dataset: str
    config: str | None = None
    split: str | None = None


@runtime_checkable
class HasSources(Protocol):
    """What an evaluator may have in addition to ``Evaluator``, where its items are of data sets on the Hub."""

    def sources(self) -> Sequence[Source]:
        """The data sets; a task of several parts has one for each part."""
        ...


def sources_of(evaluator: Evaluator) -> list[Source]:
    """The data sets that a task's items are of; empty where none is on the Hub, or it is not known."""
    return list(evaluator.sources()) if isinstance(evaluator, HasSources) else []
