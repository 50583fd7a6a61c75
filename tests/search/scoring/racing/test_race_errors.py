"""How often races stop a candidate that is better by the metric, and how much they save, over simulated searches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from mergesearch.evaluators import Item, Metric
from mergesearch.evaluators.contract.evaluator import MeanOfItems
from mergesearch.evaluators.contract.graded import GradedByMargin
from mergesearch.search.config.search import Racing
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.problem.tasks import Task
from mergesearch.search.scoring.racing.plan import plan_race
from mergesearch.search.scoring.racing.race import run_race
from mergesearch.search.statistics import Array

ITEMS, REFERENCES, CANDIDATES = 400, 10, 50
Noise = Callable[[np.random.Generator, tuple[int, int]], Array]


class Decisions(GradedByMargin, MeanOfItems):
    """Right or wrong, by recorded margins."""

    metric = Metric("acc")
    has_margins: ClassVar[bool] = True

    def score_with_margins(self, *_: object) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


def normal(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    return 0.3 * rng.normal(size=shape)


def heavy(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    return 0.2 * rng.standard_t(2, shape)


def clustered(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Eight items in a row share it."""
    return 0.5 * np.repeat(rng.normal(size=(shape[0], shape[1] // 8)), 8, axis=1)


@dataclass(frozen=True)
class Search:
    """Margins of candidates, [candidates, items]; the first ones are references."""

    margins: Array
    weights: Array
    graded: bool

    @classmethod
    def made(cls, seed: int, noise: Noise, graded: bool = True, uneven: bool = False) -> "Search":
        rng = np.random.default_rng(seed)
        ease, required = rng.normal(1.2, 1.3, ITEMS), rng.normal(0, 0.6, (ITEMS, 4))
        skills = rng.normal(0, 0.6, (REFERENCES + CANDIDATES, 4))
        margins = ease - 0.12 * (skills**2).sum(1)[:, None] + skills @ required.T
        weights = rng.choice([1.0, 4.0], ITEMS) if uneven else np.ones(ITEMS)
        return cls(margins + noise(rng, margins.shape), weights, graded)

    @property
    def tasks(self) -> TaskSet:
        items = [Item(str(n), "a", str(n), weight=weight) for n, weight in enumerate(self.weights.tolist())]
        return TaskSet([Task("a", cast(Any, Decisions()), 1.0, items, [], keeps_margins=self.graded)])

    @property
    def values(self) -> Array:
        return np.asarray((self.margins > 0) @ self.weights / self.weights.sum())

    def marks(self, candidate: int, numbers: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        margins = torch.tensor(self.margins[candidate][numbers])
        return (margins > 0).double(), margins if self.graded else None

    def shares(self, pairs: Sequence[tuple[int, int]], seed: int) -> list[float]:
        """Of each race of a candidate against an incumbent: the share of the items that was scored."""
        tasks, every = self.tasks, range(ITEMS)
        marks = [self.marks(number, every) for number in range(REFERENCES)]
        known = [({"a": scores}, {} if margins is None else {"a": margins}) for scores, margins in marks]
        plan = plan_race(tasks, known, Racing(), seed)
        return [
            run_race(
                tasks,
                plan,
                {"a": self.marks(incumbent, every)[0]},
                lambda _, items, one=candidate: self.marks(one, [int(item.id) for item in items]),  # type: ignore[misc]
                f"{candidate} against {incumbent}",
            ).count
            / ITEMS
            for candidate, incumbent in pairs
        ]

    def nearest(self, count: int) -> list[tuple[int, int]]:
        """(better, worse) of the candidates, by as little as there is."""
        gaps = self.values[:, None] - self.values[None, :]
        gaps[:REFERENCES], gaps[:, :REFERENCES] = -1.0, -1.0
        better, worse = np.nonzero(gaps > 1e-9)
        nearest = np.argsort(gaps[better, worse], kind="stable")[:count]
        return [(int(better[n]), int(worse[n])) for n in nearest]


CASES: dict[str, dict[str, Any]] = {
    "normal": {"noise": normal},
    "heavy": {"noise": heavy},
    "clustered": {"noise": clustered},
    "unequal weights": {"noise": normal, "uneven": True},
    "without grades": {"noise": normal, "graded": False},
}


@pytest.mark.parametrize("name", [*CASES][:1] + [pytest.param(name, marks=pytest.mark.slow) for name in [*CASES][1:]])
def test_better_candidates_are_stopped_as_rarely_as_promised(name: str) -> None:
    stopped, saved = [], []
    for seed in range(12):
        search = Search.made(seed, **CASES[name])
        stopped += [share < 1 for share in search.shares(search.nearest(10), seed)]
        best = REFERENCES + int(np.argmax(search.values[REFERENCES:]))
        worse = [(number, best) for number in range(REFERENCES, REFERENCES + 10) if number != best]
        saved += search.shares(worse, seed)
    assert sum(stopped) <= 12, "binomial(120, 0.05) is above 12 once in 100 times"
    assert np.mean(saved) < 0.6


def turned(rng: np.random.Generator, search: Search, lost: int, won: int) -> Search:
    """With a candidate added that answers as the best reference, but for some answers turned whatever others say."""
    best = int(np.argmax(search.values[:REFERENCES]))
    copy = search.margins[best].copy()
    for count, places in ((lost, np.flatnonzero(copy > 0)), (won, np.flatnonzero(copy <= 0))):
        copy[rng.permutation(places)[:count]] *= -1.0
    return Search(np.vstack([search.margins, copy]), search.weights, search.graded)


@pytest.mark.parametrize("graded", [True, False])
def test_a_candidate_that_wins_one_more_than_it_loses_is_kept(graded: bool) -> None:
    """Whose answers nothing foretells."""
    stopped = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        search = turned(rng, Search.made(seed, normal, graded), lost=14, won=15)
        best = int(np.argmax(search.values[:REFERENCES]))
        stopped += search.shares([(REFERENCES + CANDIDATES, best)], seed)[0] < 1
    assert stopped <= 6, "binomial(40, 0.05) is above 6 once in 100 times"
