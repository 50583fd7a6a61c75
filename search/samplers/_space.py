"""What samplers know of a search space: its dimensions, and which of them go together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

METHOD = "merge_method"
Point = dict[str, Any]


@dataclass(frozen=True)
class Branch:
    """Dimensions that are asked together: those in ``free`` to be chosen, those in ``fixed`` with one value here."""

    free: Mapping[str, BaseDistribution]
    fixed: Mapping[str, BaseDistribution]
    values: Mapping[str, Any]

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        return {**self.fixed, **self.free}

    def holds(self, trial: FrozenTrial) -> bool:
        """Whether the trial is a point of this branch."""
        params = trial.params
        return self.distributions.keys() <= params.keys() and all(params[k] == v for k, v in self.values.items())

    def whole(self, point: Mapping[str, Any]) -> Point:
        """The free values with the fixed ones."""
        return {**self.values, **point}


class Hole(Protocol):
    """One dimension."""

    @property
    def name(self) -> str: ...
    @property
    def distribution(self) -> BaseDistribution: ...


class SearchSpace(Protocol):
    """What samplers ask of a search space: the holes, and which of them each method has."""

    @property
    def holes(self) -> Sequence[Any]: ...
    @property
    def methods(self) -> Sequence[Any]: ...
    @property
    def is_stack(self) -> bool: ...
    def holes_of(self, method: Any) -> Sequence[Any]: ...


def branches_of(space: SearchSpace) -> list[Branch]:
    """One branch for each method; a single one, with the method free, where all methods ask the same."""
    choice = {hole.name: hole.distribution for hole in space.holes if hole.name == METHOD}
    asked = [(method.name, _asked(space, method)) for method in space.methods]
    if all(free.keys() == asked[0][1].keys() for _, free in asked):
        return [Branch({**choice, **asked[0][1]}, {}, {})]
    return [Branch(free, choice, {METHOD: name}) for name, free in asked]


def _asked(space: SearchSpace, method: Any) -> dict[str, BaseDistribution]:
    holes = [hole for hole in space.holes_of(method) if hole.name != METHOD]
    return {hole.name: hole.distribution for hole in holes if not hole.distribution.single()}


def all_dimensions(branches: Sequence[Branch]) -> dict[str, BaseDistribution]:
    """Every dimension of the space, by name."""
    return {name: found for branch in branches for name, found in branch.distributions.items()}
