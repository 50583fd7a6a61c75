"""The Pareto front in a verdict: its members, objective by objective, on the search items and on the test items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mergesearch.search.statistics import Array, Combine, Contrast, Estimate, difference_of, estimated, value_of
from mergesearch.search.study.direction import Direction
from mergesearch.search.verdict.comparison import compared
from mergesearch.search.verdict.constraint_checks import Check
from mergesearch.seeds import derive

if TYPE_CHECKING:  # a verdict is read without torch
    from mergesearch.search.problem.task_set import TaskSet
    from mergesearch.search.problem.tasks import Scores, Task


@dataclass(frozen=True)
class Standing:
    """One objective of a front's member, in its own units, on the items of each side that has any.

    ``difference`` is from the best baseline on the same test items; its interval and the two-sided ``p`` hold for all
    members and objectives together, see ``Outcome``. None for the best baseline itself.
    """

    search: Estimate | None = None
    test: Estimate | None = None
    difference: Estimate | None = None
    p: float | None = None


@dataclass(frozen=True)
class FrontMember:
    """A candidate of the front. ``recipe`` is its file in the run's folder.

    ``on_test_front``: whether no other member is as good in every objective on the test items and better in one.
    """

    name: str
    trial: int
    method: str
    recipe: str
    standings: dict[str, Standing]
    checks: list[Check]
    on_test_front: bool


@dataclass(frozen=True)
class Front:
    """The Pareto front on the search items, the best in the first objective first; ``knee`` is a trial's number.

    ``directions``: which way each objective is better, maximize or minimize.
    """

    members: list[FrontMember]
    knee: int | None
    directions: dict[str, Direction]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def in_words(self) -> str:
        """One sentence."""
        named = {member.trial: member.name for member in self.members}
        knee = "it has no knee" if self.knee is None else f"its knee is {named[self.knee]}"
        kept = sum(member.on_test_front for member in self.members)
        return (
            f"The front on the search items has {len(self.members)} candidates, and {knee}; {kept} of them are on the "
            "front of the test items too."
        )


def standings(
    tasks: TaskSet, members: Mapping[int, Mapping[str, Scores]], rival: int, rivals: Mapping[str, Scores], seed: int
) -> dict[int, dict[str, Standing]]:
    """Each member's objectives, by trial. ``members`` has their scores on each side, ``rivals`` the best baseline's."""
    found = {trial: _values(tasks, sides, seed) for trial, sides in members.items()}
    pairs = [(trial, task) for trial in members if trial != rival for task in tasks.counted("test")]
    differences = [_difference(task, members[trial]["test"], rivals["test"]) for trial, task in pairs]
    for (trial, task), outcome in zip(pairs, compared(differences, seed) if pairs else [], strict=True):
        standing = found[trial][task.name]
        found[trial][task.name] = replace(standing, difference=outcome.together, p=outcome.p_together)
    return found


def _values(tasks: TaskSet, sides: Mapping[str, Scores], seed: int) -> dict[str, Standing]:
    def value(task: Task, side: str) -> Estimate | None:
        if not task.items(side):
            return None
        found = value_of(task.strata(side, sides[side][task.name]), _alone(task, side))
        return estimated(found, derive(seed, "sign flips"))

    counted = [task for task in tasks if task.weight]
    return {task.name: Standing(value(task, "search"), value(task, "test")) for task in counted}


def _alone(task: Task, side: str) -> Combine:
    """One task's (normalised) value as a function of its strata."""
    from mergesearch.search.problem.objective import Objective

    each = Objective([task.share(side)]).each

    def value(values: Array) -> Array:
        alone: Array = each(values)[0]
        return alone

    return value


def _difference(task: Task, mine: Scores, other: Scores) -> Contrast:
    one, two = (task.strata("test", scores[task.name]) for scores in (mine, other))
    return difference_of(one, two, _alone(task, "test"))


def on_test_front(tasks: TaskSet, found: Mapping[int, Mapping[str, Standing]]) -> dict[int, bool]:
    """Whether no other member dominates a member on the test items, by trial."""
    from mergesearch.search.study.pareto import best_of

    shares = [task.share("test") for task in tasks.counted("test")]
    points = [[share.sign * _tested(standing[share.task]) for share in shares] for standing in found.values()]
    return dict(zip(found, best_of(np.array(points)), strict=True))


def _tested(standing: Standing) -> float:
    return standing.test.value if standing.test else float("nan")
