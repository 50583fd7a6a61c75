"""The contract of a candidate source: what a run scores next, decided by the study's trials alone.

A run that is killed and resumed therefore asks for the candidates that it would have asked for otherwise.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from optuna.study import Study

from mergesearch.merge_ops.methods import Scalar
from mergesearch.merge_ops.recipe.recipe import Recipe


@dataclass(frozen=True)
class Candidate:
    """What to score next. ``kind`` and ``name`` are those of its trial.

    ``recipe`` makes a recipe from outside the search space: whatever it raises is the trial's failure. ``point`` gives
    every dimension of the space a value. With neither, the sampler chooses the values.

    ``find`` finds a point, which takes long: it is called outside of the run's lock, with the number of the attempt. At
    a further one, another worker is at the point of the one before. It may find none; then the sampler chooses the
    values, and the candidate is the sampler's.
    """

    kind: str
    name: str = ""
    recipe: Callable[[], Recipe] | None = None
    point: Mapping[str, Scalar] | None = None
    find: Callable[[int], Mapping[str, Scalar] | None] | None = None


@dataclass(frozen=True)
class Wait:
    """The source's next candidate depends on trials that other workers score now."""


@dataclass(frozen=True)
class Done:
    """The source has nothing to offer; it is the next source's turn. ``reason`` says why, for the user."""

    reason: str


class Source(Protocol):
    """Offers candidates, one at a time."""

    @property
    def may_overtake(self) -> bool:
        """Whether it may offer a candidate while a source before it waits."""
        ...

    def next(self, study: Study) -> Candidate | Wait | Done:
        """The next candidate after the study's trials."""
        ...
