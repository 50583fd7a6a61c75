"""What the benchmarks of searches share: the budget, and a run's folder that leaves nothing on the disk."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mergesearch.evaluators import Item
from mergesearch.search.problem.tasks import Scores
from mergesearch.search.study.run_folder import RunFolder

BUDGET = 200
"""Full evaluations that a search may spend: twice mergekit-evolve's default."""
OUR_TRIALS = 60
"""The config's default."""


class OverError(Exception):
    """The search has found what it was to find, or has spent its budget."""


def quartiles(numbers: Sequence[float]) -> list[float]:
    """The three, of values some of which are infinite."""
    return [float(value) for value in np.quantile(numbers, [0.25, 0.5, 0.75], method="inverted_cdf")]


class Memory(RunFolder):
    """Scores and files in memory; nobody else works on the run."""

    def __init__(self) -> None:
        super().__init__(Path())
        self._scores: dict[str, Scores] = {}
        self._files: dict[str, dict[str, Any]] = {}

    @contextmanager
    def locked(self) -> Iterator[None]:
        yield

    def save_scores(self, name: str, scores: Mapping[str, Tensor], items: Mapping[str, Sequence[Item]]) -> None:  # noqa: ARG002
        self._scores[name] = dict(scores)

    def load_scores(self, name: str) -> Scores:
        return self._scores[name]

    def has_scores(self, name: str) -> bool:
        return name in self._scores

    def read_json(self, name: str) -> dict[str, Any] | None:
        return self._files.get(name)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        self._files[name] = dict(content)
