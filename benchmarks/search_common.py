"""What the benchmarks of searches share: the budget, quartiles, and a run folder that writes nothing to disk."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import FloatDistribution
from pydantic import TypeAdapter
from torch import Tensor

from mergesearch.evaluators import Item
from mergesearch.merge_ops.methods import Method
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.candidates.baselines import Baseline, Endpoints
from mergesearch.search.problem.tasks import Margins, Scores
from mergesearch.search.space.space import Space
from mergesearch.search.study.json_file import Content
from mergesearch.search.study.run_folder import RunFolder

Array = NDArray[np.float64]
BUDGET = 200
"""Full evaluations of each search; twice the default of mergekit-evolve."""
OUR_TRIALS = 60
"""The default of ``search: trials``."""


class SearchEndedError(Exception):
    """Raised in the middle of a search that has reached its target or has spent its budget."""


def quartiles(values: Sequence[float]) -> list[float]:
    """The three quartiles of values that may be infinite."""
    return [float(value) for value in np.quantile(values, [0.25, 0.5, 0.75], method="inverted_cdf")]


Trace = Sequence[tuple[float, float, float]]
"""(full evaluations, another cost or the search score, gain) at each change of what a search would hand over."""


def gain_after(trace: Trace, spent: float) -> float:
    """The gain after ``spent`` full evaluations; minus infinity before the first."""
    return next((gain for evaluations, _, gain in reversed(trace) if evaluations <= spent), -np.inf)


def cost_to(trace: Trace, target: float, column: int = 0) -> float:
    """What was spent, in the column's unit, until the gain reached the target; infinity where it never did."""
    return next((point[column] for point in trace if point[2] >= target), np.inf)


def spread(values: Sequence[float]) -> str:
    """The median and the other quartiles, as the cell of a table."""
    low, middle, high = (f"{value:.1f}" if np.isfinite(value) else "never" for value in quartiles(values))
    return f"{middle} ({low} to {high})"


def score_baselines(baselines: Endpoints, objective: Callable[[Recipe], float]) -> list[Baseline]:
    """Scores the baselines one after the other, since the greedy soup depends on scores. Returns them in that order."""
    scores: dict[str, float] = {}
    scored: list[Baseline] = []
    while (baseline := baselines.following(scores)) is not None:
        scores[baseline.name] = objective(baseline.recipe)
        scored.append(baseline)
    return scored


def method_named(space: Space, name: str) -> Method:
    """The method of this name among those of the space."""
    return next(method for method in space.methods if method.name == name)


def ranges_of(space: Space, method: Method) -> dict[str, tuple[float, float]]:
    """The lowest and the highest value of each dimension of a method; all dimensions are continuous."""
    distributions = {dimension.name: dimension.distribution for dimension in space.dimensions_of(method)}
    ranges = {}
    for name, distribution in distributions.items():
        assert isinstance(distribution, FloatDistribution)
        ranges[name] = distribution.low, distribution.high
    return ranges


def bounds_of(space: Space, method: Method) -> tuple[Array, Array]:
    """[dimensions] each: the lowest and the highest values of a method's dimensions."""
    low, high = zip(*ranges_of(space, method).values(), strict=True)
    return np.array(low), np.array(high)


class InMemoryRunFolder(RunFolder):
    """A run folder that keeps scores and files in memory, for a run with a single worker."""

    def __init__(self) -> None:
        super().__init__(Path())
        self._scores: dict[str, Scores] = {}
        self._margins: dict[str, Margins] = {}
        self._files: dict[str, dict[str, Any]] = {}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Locks nothing: there is no other worker."""
        yield

    def save_scores(
        self,
        name: str,
        scores: Mapping[str, Tensor],
        items: Mapping[str, Sequence[Item]],  # noqa: ARG002
        margins: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        """See ``RunFolder.save_scores``; the items are not kept."""
        self._scores[name], self._margins[name] = dict(scores), dict(margins)

    def load_scores(self, name: str, items: Mapping[str, Sequence[Item]] | None = None) -> Scores:  # noqa: ARG002
        """See ``RunFolder.load_scores``; the items are those that were scored."""
        return self._scores[name]

    def load_scores_and_margins(
        self,
        name: str,
        items: Mapping[str, Sequence[Item]],  # noqa: ARG002
        partial: bool = False,  # noqa: ARG002
    ) -> tuple[Scores, Margins]:
        """See ``RunFolder.load_scores_and_margins``; the items are those that were scored."""
        return self._scores[name], self._margins[name]

    def has_scores(self, name: str) -> bool:
        """See ``RunFolder.has_scores``."""
        return name in self._scores

    def read_json(self, name: str, kind: type[Content], remedy: str) -> Content | None:  # noqa: ARG002
        """See ``RunFolder.read_json``."""
        return TypeAdapter(kind).validate_python(self._files[name]) if name in self._files else None

    def write_json(self, name: str, content: Mapping[str, Any], durable: bool = True) -> None:  # noqa: ARG002
        """See ``RunFolder.write_json``."""
        self._files[name] = dict(content)
