"""The Pareto front in a verdict: its members, objective by objective, on the search items and on the test items."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mergesearch.search.problem.objective import Objective
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.problem.tasks import Scores, Task
from mergesearch.search.statistics import Array, Combine, Estimate, bootstrap, bootstrap_difference, holm, swap_p
from mergesearch.search.study.pareto import best_of
from mergesearch.search.study.trials import Direction
from mergesearch.search.verdict.constraint_checks import Check
from mergesearch.seeds import derive


@dataclass(frozen=True)
class Standing:
    """One objective of a front's member, in its own units, on the items of each side that has any.

    ``difference`` is from the best baseline on the same test items, ``p`` two-sided, ``p_holm`` corrected for all
    members and objectives together (Holm 1979); None for the best baseline itself.
    """

    search: Estimate | None = None
    test: Estimate | None = None
    difference: Estimate | None = None
    p: float | None = None
    p_holm: float | None = None


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
    compared = [(trial, task) for trial in members if trial != rival for task in tasks.counted("test")]
    tests = [_compared(seed, task, members[trial]["test"], rivals["test"]) for trial, task in compared]
    corrected = holm([p for _, p in tests])
    for (trial, task), (difference, p), p_holm in zip(compared, tests, corrected, strict=True):
        before = found[trial][task.name]
        found[trial][task.name] = Standing(before.search, before.test, difference, p, p_holm)
    return found


def _values(tasks: TaskSet, sides: Mapping[str, Scores], run_seed: int) -> dict[str, Standing]:
    def value(task: Task, side: str) -> Estimate | None:
        if not task.items(side):
            return None
        seed = derive(run_seed, "bootstrap", task.name)
        return bootstrap(task.strata(side, sides[side][task.name]), _alone(task, side), seed)

    counted = [task for task in tasks if task.weight]
    return {task.name: Standing(value(task, "search"), value(task, "test")) for task in counted}


def _alone(task: Task, side: str) -> Combine:
    """One task's (normalised) value as a function of its strata."""
    each = Objective([task.share(side)]).each

    def value(values: Array) -> Array:
        alone: Array = each(values)[0]
        return alone

    return value


def _compared(seed: int, task: Task, mine: Scores, other: Scores) -> tuple[Estimate, float]:
    one, two = (task.strata("test", scores[task.name]) for scores in (mine, other))
    seeds = [derive(seed, what, task.name) for what in ("bootstrap", "sign flips")]
    combine = _alone(task, "test")
    return bootstrap_difference(one, two, combine, seeds[0]), swap_p(one, two, combine, seeds[1])


def on_test_front(tasks: TaskSet, found: Mapping[int, Mapping[str, Standing]]) -> dict[int, bool]:
    """Whether no other member dominates a member on the test items, by trial."""
    shares = [task.share("test") for task in tasks.counted("test")]
    points = [[share.sign * _tested(standing[share.task]) for share in shares] for standing in found.values()]
    return dict(zip(found, best_of(np.array(points)), strict=True))


def _tested(standing: Standing) -> float:
    return standing.test.value if standing.test else float("nan")
