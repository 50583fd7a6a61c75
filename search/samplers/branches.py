"""What a sampler needs of a search space: which dimensions are asked together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from mergesearch.merge_ops.methods import Method
from mergesearch.search.space.dimension import METHOD, Dimension

Point = dict[str, Any]
"""A value for each dimension, by name."""


class SearchSpace(Protocol):
    """A search space, as samplers and schedules see it."""

    @property
    def dimensions(self) -> Sequence[Dimension]: ...
    @property
    def methods(self) -> Sequence[Method]: ...
    @property
    def is_stack(self) -> bool: ...
    def dimensions_of(self, method: Method) -> Sequence[Dimension]: ...


@dataclass(frozen=True)
class Branch:
    """Dimensions that are asked together: those of one method, or of all where they have the same.

    Attributes:
        free: the dimensions that a sampler chooses values for.
        fixed: the dimensions that have one value in this branch.
        values: these values.
    """

    free: Mapping[str, BaseDistribution]
    fixed: Mapping[str, BaseDistribution]
    values: Mapping[str, Any]

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """All dimensions."""
        return {**self.fixed, **self.free}

    def contains(self, trial: FrozenTrial) -> bool:
        """Whether the trial's parameters are a point of this branch."""
        params = trial.params
        return self.distributions.keys() <= params.keys() and all(params[k] == v for k, v in self.values.items())

    def complete(self, free: Mapping[str, Any]) -> Point:
        """The point with these values in the free dimensions."""
        return {**self.values, **free}


def branches_of(space: SearchSpace) -> list[Branch]:
    """One branch for each method; a single one, in which the method is free, where all have the same dimensions.

    Dimensions with a single value are left out: Optuna does not ask samplers for them.
    """
    choice = {dimension.name: dimension.distribution for dimension in space.dimensions if dimension.name == METHOD}
    free = {method.name: _free_dimensions(space, method) for method in space.methods}
    first = next(iter(free.values()))
    if all(dimensions.keys() == first.keys() for dimensions in free.values()):
        return [Branch({**choice, **first}, {}, {})]
    return [Branch(dimensions, choice, {METHOD: name}) for name, dimensions in free.items()]


def _free_dimensions(space: SearchSpace, method: Method) -> dict[str, BaseDistribution]:
    dimensions = [dimension for dimension in space.dimensions_of(method) if dimension.name != METHOD]
    return {dimension.name: dimension.distribution for dimension in dimensions if not dimension.distribution.single()}


def branch_of(trial: FrozenTrial, branches: Sequence[Branch]) -> Branch | None:
    """The first branch that contains the trial; None where there is none."""
    return next((branch for branch in branches if branch.contains(trial)), None)


def all_dimensions(branches: Sequence[Branch]) -> dict[str, BaseDistribution]:
    """The dimensions of all branches, by name."""
    return {name: distribution for branch in branches for name, distribution in branch.distributions.items()}
