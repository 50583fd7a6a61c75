"""The winner against each baseline and against the best of them, and what each task's test items have to say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, inf, isnan, log10
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np

from mergesearch.search.statistics import (
    LEVEL,
    Contrast,
    Estimate,
    Outcome,
    against_all,
    detectable_difference,
    difference_of,
    sign_flip_test,
)
from mergesearch.seeds import derive

if TYPE_CHECKING:  # a verdict is read without torch
    from mergesearch.search.problem.task_set import TaskSet
    from mergesearch.search.problem.tasks import Scores

NO_DIFFERENCE = Estimate(0.0, 0.0, 0.0)
MOST = 0.5
"""A small task decides if its share of the variance is larger than this and than DISPROPORTION times its share of the
test items."""
DISPROPORTION = 2.0


@dataclass(frozen=True)
class Comparison:
    """Winner − one baseline, in the objective on the same test items, with its interval and two-sided ``p``.

    ``together`` and ``p_together`` hold for all baselines together; see ``Outcome``.
    """

    baseline: str
    difference: Estimate
    p: float
    together: Estimate
    p_together: float

    @classmethod
    def of(cls, baseline: str, found: Outcome) -> Comparison:
        return cls(baseline, found.estimate, found.p, found.together, found.p_together)

    @property
    def is_proven(self) -> bool:
        """Whether the winner is better than this baseline, among all that it is compared with."""
        return self.difference.value > 0 and self.p_together < LEVEL


@dataclass(frozen=True)
class Claim:
    """Winner − the best of the baselines, with its interval and two-sided ``p``; see ``against_all``.

    ``hardest`` is the baseline from which the winner is told apart the least. It need not be the best of them: a worse
    one may differ from the winner in more items.
    """

    difference: Estimate = NO_DIFFERENCE
    p: float = 1.0
    hardest: str = ""

    @classmethod
    def of(cls, differences: Sequence[Outcome], names: Sequence[str] = ()) -> Claim:
        hardest = max(zip((each.p for each in differences), names, strict=False), default=(1.0, ""), key=itemgetter(0))
        return cls(*against_all(differences), hardest[1])

    @property
    def is_proven(self) -> bool:
        """Whether the winner is better than every baseline: p < 0.05, and so the interval is above 0."""
        return self.difference.value > 0 and self.p < LEVEL

    @property
    def is_refuted(self) -> bool:
        """Whether the winner is worse than the best baseline: p < 0.05, and so the interval is below 0."""
        return self.difference.value < 0 and self.p < LEVEL


@dataclass(frozen=True)
class Power:
    """What the test items can prove of a gain: ``detectable`` or more, with a power of 80 %.

    ``items`` is how many test items would do for the gain that was found, to two digits; None where it is no gain, or
    the items do already.
    """

    detectable: float
    items: int | None = None

    @classmethod
    def of(cls, difference: Contrast, items: int) -> Power | None:
        """What so many items can prove, if they differ as in ``difference``; None where that does not vary."""
        detectable = detectable_difference(difference.standard_error, difference.degrees)
        if not 0 < detectable < inf:
            return None
        if not 0 < difference.value < detectable:
            return cls(detectable)
        return cls(detectable, _to_two_digits(items * (detectable / difference.value) ** 2))


def _to_two_digits(count: float) -> int:
    """Rounded up."""
    step = int(10 ** max(0, floor(log10(count)) - 1))
    return ceil(count / step) * step


@dataclass(frozen=True)
class Evidence:
    """One task's part in a difference in the objective, such as that between winner and best baseline.

    ``items`` are those of the test side, ``clusters`` groups of them that count once. ``variance_share`` is the task's
    share of the variance of the difference; None where nothing varies or it is not known.
    """

    task: str
    items: int
    clusters: int
    variance_share: float | None


def contrasts(tasks: TaskSet, side: str, one: Scores, others: Sequence[Scores]) -> list[Contrast]:
    """One candidate minus each of the others, in the objective of one side's scores."""
    strata, combine = tasks.strata(side, one), tasks.objective(side).combine
    return [difference_of(strata, tasks.strata(side, other), combine) for other in others]


def compared(differences: Sequence[Contrast], seed: int) -> list[Outcome]:
    """Tests the differences, each on its own and all together; ``seed`` is the run's."""
    return sign_flip_test(differences, derive(seed, "sign flips"))


def evidence(tasks: TaskSet, difference: Contrast) -> list[Evidence]:
    """What the test items of each task say of a difference in the objective, as ``contrasts`` gives it."""
    counted = tasks.counted("test")
    ends = np.cumsum([share.rows for share in tasks.objective("test").shares])
    shares = np.split(difference.variance_shares, ends[:-1])
    names = [difference.clusters[last - len(part) : last] for part, last in zip(shares, ends, strict=True)]
    return [
        Evidence(task.name, len(task.test), len(np.unique(np.concatenate(clusters))), _known(float(part.sum())))
        for task, clusters, part in zip(counted, names, shares, strict=True)
    ]


def _known(share: float) -> float | None:
    return None if isnan(share) else share


def deciding(found: Sequence[Evidence]) -> Evidence | None:
    """The task that decides with few items: it has most of the variance, and much less of the items; or None."""
    items = sum(each.items for each in found)
    largest = max(found, key=lambda each: each.variance_share or 0.0, default=None)
    if largest is None or (share := largest.variance_share or 0.0) <= MOST:
        return None
    return largest if share > DISPROPORTION * largest.items / items else None
