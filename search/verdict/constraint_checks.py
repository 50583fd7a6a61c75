"""Whether the finalists satisfy the constraints, on the search items and on the test items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mergesearch.search.statistics import Estimate, difference_of, estimated, value_of
from mergesearch.search.verdict.formatting import interval
from mergesearch.seeds import derive

if TYPE_CHECKING:  # a verdict is read without torch
    from torch import Tensor

    from mergesearch.search.config.constraints import Constraint
    from mergesearch.search.problem.tasks import Task


@dataclass(frozen=True)
class Check:
    """A candidate's margin to a constraint, in the task's units; below 0 the constraint is broken.

    ``test`` is None where the task has no test items.
    """

    constraint: str
    search: float
    test: Estimate | None

    @property
    def is_broken(self) -> bool:
        """Whether the margin is negative; by chance or not."""
        return self.margin < 0

    @property
    def margin(self) -> float:
        """The margin on the test items, or on the search items where there are no test items."""
        return self.test.value if self.test else self.search

    @property
    def in_words(self) -> str:
        """One sentence."""
        kept = f"{self.constraint}: {_kept(self.search)} on the search items by {abs(self.search):.4f}"
        if self.test is None:
            return f"{kept}; it was not checked on test items."
        sure = self.test.low >= 0 or self.test.high < 0
        margin = interval(self.test, "+", 4)
        chance = "" if sure else "; both are within chance"
        return f"{kept}; {_kept(self.test.value)} on the test items, margin {margin}{chance}."


def _kept(margin: float) -> str:
    return "kept" if margin >= 0 else "broken"


def check(  # noqa: PLR0913, PLR0917 - what one margin depends on
    task: Task,
    constraint: Constraint,
    search: float,
    scores: Mapping[str, Tensor],
    baseline: Mapping[str, Tensor] | None,
    seed: int,
) -> Check:
    """A candidate's margin: on the search items, given, and on the test items, from its scores and the baseline's.

    ``task`` is the constraint's, ``seed`` the run's.
    """
    if not task.test or (baseline is not None and task.name not in baseline):
        return Check(str(constraint), search, None)
    seed = derive(seed, "sign flips")
    one = [task.stratum("test", scores[task.name])]
    if baseline is None:
        margin = value_of(one, lambda values: constraint.margin(values[0]))
        return Check(str(constraint), search, estimated(margin, seed))
    two = [task.stratum("test", baseline[task.name])]
    sign = 1.0 if constraint.is_floor else -1.0
    gain = estimated(difference_of(one, two, lambda values: sign * values[0]), seed)
    test = Estimate(*(value + constraint.by for value in (gain.value, gain.low, gain.high)))
    return Check(str(constraint), search, test)


def broken(checks: Sequence[Check]) -> list[Check]:
    """The checks of constraints that are broken on the test items."""
    return [each for each in checks if each.is_broken]
