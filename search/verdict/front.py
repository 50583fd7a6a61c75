"""What a verdict says beside its one comparison: of a front, objective by objective, and of constraints."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mergesearch.search.config.constraints import Constraint
from mergesearch.search.problem.objective import Array, Direction, Objective
from mergesearch.search.problem.problem import Job
from mergesearch.search.problem.tasks import Scores, Task
from mergesearch.search.statistics import Combine, Estimate, bootstrap, bootstrap_difference, holm, swap_p
from mergesearch.search.study.pareto import best_of
from mergesearch.seeds import derive


@dataclass(frozen=True)
class Check:
    """How far a candidate keeps a constraint, in the task's units; below 0 it is broken.

    ``test`` is None where the task has no test items.
    """

    constraint: str
    search: float
    test: Estimate | None

    @property
    def is_broken(self) -> bool:
        """Whether the test items say so, by chance or not."""
        return self.margin < 0

    @property
    def margin(self) -> float:
        """On the test items; on the search items where there are no others."""
        return self.test.value if self.test else self.search

    @property
    def in_words(self) -> str:
        """One sentence."""
        kept = f"{self.constraint}: {_kept(self.search)} on the search items by {abs(self.search):.4f}"
        if self.test is None:
            return f"{kept}; there are no test items to hold it on."
        sure = self.test.low >= 0 or self.test.high < 0
        margin = f"{self.test.value:+.4f} [{self.test.low:+.4f}, {self.test.high:+.4f}]"
        chance = "" if sure else "; either way within chance"
        return f"{kept}; {_kept(self.test.value)} on the test items, margin {margin}{chance}."

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Check":
        return cls(data["constraint"], data["search"], _estimate(data["test"]))


def _kept(margin: float) -> str:
    return "kept" if margin >= 0 else "broken"


def _estimate(data: dict[str, Any] | None) -> Estimate | None:
    return None if data is None else Estimate(**data)


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

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Standing":
        search, test, difference = (_estimate(data[key]) for key in ("search", "test", "difference"))
        return cls(search, test, difference, data["p"], data["p_holm"])


@dataclass(frozen=True)
class Member:
    """A candidate of the front. ``recipe``: its file in the run's folder.

    ``on_test_front``: whether no other member is as good in every objective on the test items and better in one.
    """

    name: str
    trial: int
    method: str
    recipe: str
    standings: dict[str, Standing]
    checks: list[Check]
    on_test_front: bool

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Member":
        standings = {task: Standing.from_json(found) for task, found in data["standings"].items()}
        return cls(**{**data, "standings": standings, "checks": [Check.from_json(each) for each in data["checks"]]})


@dataclass(frozen=True)
class Front:
    """The Pareto front on the search items, the best in the first objective first; ``knee`` is a trial's number.

    ``directions``: which way each objective is better, maximize or minimize.
    """

    members: list[Member]
    knee: int | None
    directions: dict[str, Direction]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Front":
        return cls(**{**data, "members": [Member.from_json(member) for member in data["members"]]})

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
    job: Job, members: Mapping[int, Mapping[str, Scores]], rival: int, rivals: Mapping[str, Scores]
) -> dict[int, dict[str, Standing]]:
    """Each member's objectives; members: by trial, the scores of each side; rivals: those of the best baseline."""
    found = {trial: _values(job, trial, sides) for trial, sides in members.items()}
    compared = [(trial, task) for trial in members if trial != rival for task in job.tasks_of("test")]
    tests = [_compared(job, task, members[trial]["test"], rivals["test"]) for trial, task in compared]
    corrected = holm([p for _, p in tests])
    for (trial, task), (difference, p), p_holm in zip(compared, tests, corrected, strict=True):
        before = found[trial][task.name]
        found[trial][task.name] = Standing(before.search, before.test, difference, p, p_holm)
    return found


def _values(job: Job, trial: int, sides: Mapping[str, Scores]) -> dict[str, Standing]:
    def value(task: Task, side: str) -> Estimate | None:
        if not task.items(side):
            return None
        seed = derive(job.config.search.seed, "bootstrap", trial, task.name)
        return bootstrap(task.strata(side, sides[side][task.name]), _alone(task, side), seed)

    counted = [task for task in job.tasks if task.weight]
    return {task.name: Standing(value(task, "search"), value(task, "test")) for task in counted}


def _alone(task: Task, side: str) -> Combine:
    """One task's value by itself, as the objective takes it."""
    each = Objective([task.share(side)]).each

    def value(values: Array) -> Array:
        alone: Array = each(values)[0]
        return alone

    return value


def _compared(job: Job, task: Task, mine: Scores, other: Scores) -> tuple[Estimate, float]:
    one, two = (task.strata("test", scores[task.name]) for scores in (mine, other))
    seeds = [derive(job.config.search.seed, what, task.name) for what in ("bootstrap", "sign flips")]
    combine = _alone(task, "test")
    return bootstrap_difference(one, two, combine, seeds[0]), swap_p(one, two, combine, seeds[1])


def on_test_front(job: Job, found: Mapping[int, Mapping[str, Standing]]) -> dict[int, bool]:
    """Which members none of the others beats on the test items, by trial."""
    shares = [task.share("test") for task in job.tasks_of("test")]
    points = [[share.sign * _tested(standing[share.task]) for share in shares] for standing in found.values()]
    return dict(zip(found, best_of(np.array(points)), strict=True))


def _tested(standing: Standing) -> float:
    return standing.test.value if standing.test else float("nan")


def check(job: Job, constraint: Constraint, search: float, mine: Scores, baseline: Scores | None) -> Check:
    """A candidate's margin on the search items, known, and on the test items, from its scores and the baseline's."""
    task = next(task for task in job.tasks if task.name == constraint.task)
    if not task.test:
        return Check(str(constraint), search, None)
    seed = derive(job.config.search.seed, "bootstrap", str(constraint))
    one = [task.stratum("test", mine[task.name])]
    if baseline is None:
        return Check(str(constraint), search, bootstrap(one, lambda values: constraint.margin(values[0]), seed))
    two = [task.stratum("test", baseline[task.name])]
    sign = 1.0 if constraint.is_floor else -1.0
    gain = bootstrap_difference(one, two, lambda values: sign * values[0], seed)
    test = Estimate(*(value + constraint.by for value in (gain.value, gain.low, gain.high)))
    return Check(str(constraint), search, test)


def broken(checks: Sequence[Check]) -> list[Check]:
    """Those that do not hold on the test items."""
    return [each for each in checks if each.is_broken]
