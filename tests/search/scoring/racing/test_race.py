"""Races over recorded scores: who is stopped, on what, and what is told of them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from mergesearch.evaluators import Item, Metric
from mergesearch.evaluators.contract.evaluator import MeanOfItems
from mergesearch.search.config import Racing
from mergesearch.search.problem.objective import Objective, Share
from mergesearch.search.problem.problem import Job
from mergesearch.search.problem.tasks import Scores, Task
from mergesearch.search.scoring.racing.plan import set_course
from mergesearch.search.scoring.racing.predict import Forecaster
from mergesearch.search.scoring.racing.race import Result, gradient, lines, run_race
from mergesearch.search.statistics import bootstrap

RACING = Racing()
PLAIN = cast(Any, SimpleNamespace(evaluate=SimpleNamespace(aggregate="mean", normalize=False, constraints=[])))
"""As much of a config as a job's objective asks for."""


class Recorded(MeanOfItems):
    """A task whose scores are looked up: row by row of a candidate."""

    def __init__(self, higher_is_better: bool = True) -> None:
        self.metric = Metric("acc", higher_is_better)


class Largest(Recorded):
    def contributions(self, items: Sequence[Item], scores: Tensor) -> Tensor:
        return scores * len(items) / 10


def task(name: str, items: int, evaluator: Any = None, weight: float = 1.0) -> Task:
    known = [Item(str(number), name, str(number)) for number in range(items)]
    return Task(name, evaluator or Recorded(), weight, known, [])


def job_of(*tasks: Task) -> Job:
    return Job(PLAIN, cast(Any, None), cast(Any, None), tasks, [], "")


def made(rng: np.random.Generator, job: Job, level: float) -> Scores:
    """Answers to items of which a third are open."""
    scores: Scores = {}
    for one in job.tasks:
        ease = np.random.default_rng(len(one.search)).choice([0.0, 1.0, level], len(one.search), p=[0.1, 0.5, 0.4])
        right = rng.random(len(one.search)) < np.where(ease == level, level, ease)
        scores[one.name] = torch.tensor(right, dtype=torch.float64)
    return scores


class Asked:
    """Answers from a candidate's recorded scores, and remembers what it was asked."""

    def __init__(self, scores: Scores) -> None:
        self.scores = scores
        self.blocks: list[tuple[str, int]] = []

    def __call__(self, task: Task, items: Sequence[Item]) -> Tensor:
        self.blocks.append((task.name, len(items)))
        return self.scores[task.name][[int(item.id) for item in items]]


def race(job: Job, candidate: Scores, incumbent: Scores, baselines: Sequence[Scores], seed: int = 0) -> Result:
    return run_race(job, set_course(job, baselines, RACING, seed), incumbent, Asked(candidate))


@pytest.fixture
def two() -> tuple[Job, list[Scores]]:
    rng = np.random.default_rng(0)
    job = job_of(task("a", 300), task("b", 150))
    return job, [made(rng, job, 0.6) for _ in range(6)]


def test_blocks_hold_every_task_and_grow(two: tuple[Job, list[Scores]]) -> None:
    job, baselines = two
    asked = Asked({name: torch.maximum(baselines[0][name], baselines[1][name]) for name in baselines[0]})
    result = run_race(job, set_course(job, baselines, RACING, 0), baselines[0], asked)
    first, counts = asked.blocks[:2], Counter[str]()
    for name, count in asked.blocks:
        counts[name] += count
    assert sum(count for _, count in first) == 32
    assert result.count == counts.total() == 450
    assert 14 <= dict(first)["a"] <= 28, "two thirds of the items, about equally open"


def test_a_candidate_that_is_never_stopped_is_scored_on_every_item_once(two: tuple[Job, list[Scores]]) -> None:
    job, baselines = two
    better = {name: torch.maximum(baselines[0][name], baselines[1][name]) for name in baselines[0]}
    result = race(job, better, baselines[0], baselines)
    assert not result.stopped
    for one in job.tasks:
        assert torch.equal(result.scores[one.name], better[one.name])
        assert result.items[one.name] == list(one.search)
        assert result.values[one.name] == pytest.approx(better[one.name].mean())


def test_a_candidate_that_is_worse_is_stopped_early_and_estimated(two: tuple[Job, list[Scores]]) -> None:
    job, baselines = two
    rng = np.random.default_rng(1)
    worse = {name: scores * torch.tensor(rng.random(len(scores)) < 0.8) for name, scores in baselines[0].items()}
    results = [race(job, worse, baselines[0], baselines, seed) for seed in range(40)]
    assert all(result.stopped for result in results)
    assert np.mean([result.count for result in results]) < 0.4 * 450
    for one in job.tasks:
        found = [result.values[one.name] for result in results]
        assert np.mean(found) == pytest.approx(float(worse[one.name].mean()), abs=0.08), "stopped where it looked worst"
    assert all(len(results[0].scores[name]) == len(results[0].items[name]) for name in ("a", "b"))


def test_candidates_that_are_better_are_kept(two: tuple[Job, list[Scores]]) -> None:
    """By one item net, so that the objective is as near to the incumbent's as it can be."""
    job, baselines = two
    rng = np.random.default_rng(2)
    dropped = 0
    for seed in range(100):
        candidate = {name: scores.clone() for name, scores in baselines[0].items()}
        right, wrong = (rng.permutation(np.flatnonzero(baselines[0]["a"].numpy() == x)) for x in (1, 0))
        candidate["a"][right[:20]] = 0.0
        candidate["a"][wrong[:21]] = 1.0
        dropped += race(job, candidate, baselines[0], baselines, seed).stopped
    assert dropped <= 12, "binomial(100, 0.05) is above 12 once in 700 times"


def test_small_tasks_and_values_that_are_no_means_are_scored_in_full_first() -> None:
    job = job_of(task("a", 200), task("few", 5), task("largest", 100, Largest()))
    rng = np.random.default_rng(0)
    baselines = [made(rng, job, 0.5) for _ in range(3)]
    asked = Asked(baselines[0])
    course = set_course(job, baselines, RACING, 0)
    run_race(job, course, baselines[1], asked)
    assert asked.blocks[:2] == [("few", 5), ("largest", 100)]
    assert {name for name, _ in asked.blocks[2:]} == {"a"}
    assert course.described.endswith("over 200 items; in full: few, largest")


def test_too_few_items_are_not_raced() -> None:
    job = job_of(task("a", 40))
    baselines = [made(np.random.default_rng(0), job, 0.5)]
    course = set_course(job, baselines, RACING, 0)
    assert "racing: off" in course.described
    asked = Asked(baselines[0])
    assert not run_race(job, course, baselines[0], asked).stopped
    assert asked.blocks == [("a", 40)]


def test_a_metric_of_which_less_is_better() -> None:
    """Bits per byte: no upper end, so a widest step is taken from the baselines."""
    job = job_of(task("bits", 200, Recorded(higher_is_better=False)))
    rng = np.random.default_rng(0)
    ease = rng.normal(2.0, 0.5, 200)
    baselines = [{"bits": torch.tensor(ease + rng.normal(shift, 0.2, 200))} for shift in (0.0, 0.2, -0.1)]
    for shift, stopped in ((0.2, True), (-0.3, False)):
        candidate = {"bits": torch.tensor(ease + rng.normal(shift, 0.1, 200))}
        result = race(job, candidate, baselines[2], baselines)
        assert result.stopped is stopped
        assert result.values["bits"] == pytest.approx(float(candidate["bits"].mean()), abs=0.1)


def test_a_candidate_that_is_better_by_a_few_items_is_kept() -> None:
    """One item in eight gains what no baseline foretells; the others lose a little."""
    job = job_of(task("bits", 240, Recorded(higher_is_better=False)))
    rng = np.random.default_rng(0)
    baselines = [{"bits": torch.tensor(rng.normal(2.0, 0.1, 240))} for _ in range(5)]
    candidate = {"bits": baselines[0]["bits"] + 0.3}
    assert all(race(job, candidate, baselines[0], baselines, seed).stopped for seed in range(10))
    candidate["bits"][torch.randperm(240, generator=torch.Generator().manual_seed(0))[:30]] -= 3.0
    assert candidate["bits"].mean() < baselines[0]["bits"].mean()
    assert sum(race(job, candidate, baselines[0], baselines, seed).stopped for seed in range(60)) <= 8


def mixtures(rng: np.random.Generator, count: int, own: float) -> list[Scores]:
    """Margins of candidates that are made of the same three directions, and of a part of their own."""
    parts, ease = np.random.default_rng(5).normal(size=(3, 300)), np.random.default_rng(6).normal(1, 2, 300)
    shares = rng.normal(size=(count, 3))
    return [{"a": torch.tensor(ease + share @ parts + own * rng.normal(size=300))} for share in shares]


def test_margins_are_raced_on_what_the_baselines_do_not_foretell() -> None:
    job = job_of(task("a", 300))
    rng = np.random.default_rng(0)
    baselines, candidates = mixtures(rng, 7, 0.1), mixtures(rng, 40, 0.1)
    best = max(baselines, key=lambda scores: float(scores["a"].mean()))
    worse = [one for one in candidates if float((best["a"] - one["a"]).mean()) > 0.05]
    spent = [race(job, one, best, baselines).count / 300 for one in worse]
    assert len(worse) > 20
    assert np.mean(spent) < 0.25


def test_forecasts_are_of_what_is_not_seen_and_their_reach_holds() -> None:
    rng = np.random.default_rng(1)
    rows = [scores["a"].numpy() for scores in mixtures(rng, 8, 0.1)]
    forecaster, incumbent, candidate = Forecaster(np.stack(rows[:6])), rows[6], rows[7]
    seen = rng.permutation(300)[:60]
    found = forecaster.forecast(incumbent, seen, (candidate - incumbent)[seen])
    rest = np.setdiff1d(np.arange(300), seen)
    surprise = (candidate - incumbent - found.expected)[rest]
    assert np.std(surprise) < 0.15 < 0.2 * np.std((candidate - incumbent)[rest])
    assert (np.abs(surprise) < found.up[rest]).all()
    assert 0.1 < np.median(forecaster.noise) < 0.3, "a baseline's own, and what the others' own adds to it"


def choices(*right: tuple[int, int]) -> Scores:
    """Of each task, a or b, so many right answers of so many."""
    rng = np.random.default_rng(7)
    return {
        name: torch.tensor(rng.permutation(np.arange(items) < count), dtype=torch.float64)
        for name, (count, items) in zip("ab", right, strict=True)
    }


def normalised(items: int = 200) -> Job:
    """Two tasks of four choices."""
    tasks = [replace(task(name, items), normalize=True, chance=0.25) for name in "ab"]
    return job_of(*tasks)


BELOW_CHANCE = [
    # The incumbent is floored in both tasks; the better one leaves chance in one, and is worse in plain answers.
    (choices((40, 200), (40, 200)), choices((60, 200), (15, 200))),
    # The incumbent is above chance in one, where the better one gains a little, while it falls to nothing in the other.
    (choices((100, 200), (45, 200)), choices((112, 200), (0, 200))),
    # The better one gives up what the incumbent has in one task for more in the other.
    (choices((100, 200), (54, 200)), choices((112, 200), (20, 200))),
]


@pytest.mark.parametrize(("incumbent", "better"), BELOW_CHANCE)
def test_a_better_candidate_is_kept_where_values_are_floored_at_chance(incumbent: Scores, better: Scores) -> None:
    job = normalised()
    assert job.objective("search", better) > job.objective("search", incumbent)
    baselines = [incumbent, choices((50, 200), (50, 200)), choices((80, 200), (30, 200))]
    stopped = sum(race(job, better, incumbent, baselines, seed).stopped for seed in range(60))
    assert stopped <= 8, "binomial(60, 0.05) is above 8 once in 400 times"


def test_a_worse_candidate_is_stopped_where_values_are_floored_at_chance() -> None:
    job, incumbent = normalised(), choices((140, 200), (60, 200))
    baselines = [incumbent, choices((50, 200), (50, 200)), choices((80, 200), (30, 200))]
    results = [race(job, choices((80, 200), (30, 200)), incumbent, baselines, seed) for seed in range(10)]
    assert all(result.stopped for result in results)
    estimates = [result.estimate for result in results if result.estimate is not None]
    assert len(estimates) == 10
    assert np.mean(estimates) == pytest.approx((0.15 / 0.75) / 2, abs=0.1), "the second task is floored"


def test_subtasks_that_are_normalised_one_by_one_are_scored_in_full() -> None:
    one, other = normalised(100).tasks
    group = replace(one, search=[replace(item, part=str(n % 2)) for n, item in enumerate(one.search)])
    job = job_of(group, other)
    asked = Asked(choices((20, 100), (20, 100)))
    incumbent = choices((80, 100), (80, 100))
    course = set_course(job, [incumbent, asked.scores], RACING, 0)
    result = run_race(job, course, incumbent, asked)
    assert asked.blocks[0] == ("a", 100)
    assert course.whole == [group]
    assert result.stopped


def test_a_normalised_group_counts_by_the_plain_mean_of_its_subtasks() -> None:
    """3 of 4 right of two choices each, 1 of 8 of four, and 5 of 5 of five: 0.5, 0 (below chance) and 1."""
    sizes, rights, choice_counts = (4, 8, 5), (3, 1, 5), (2, 4, 5)
    items = [
        Item(f"{part}/{n}", "g", f"{part}/{n}", chance=1 / choice_counts[part], part=str(part))
        for part, size in enumerate(sizes)
        for n in range(size)
    ]
    scores = [float(n < right) for size, right in zip(sizes, rights, strict=True) for n in range(size)]
    mixed = [n * 7 % 17 for n in range(17)]
    group = Task("g", cast(Any, Recorded()), 1.0, [items[n] for n in mixed], [], normalize=True)
    job, found = job_of(group, task("plain", 4)), {"g": torch.tensor([scores[n] for n in mixed], dtype=torch.float64)}
    found["plain"] = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    assert job.objective("search", found) == pytest.approx((0.5 + 0.5) / 2)
    assert job.values("search", found)["g"] == pytest.approx(9 / 17), "the metric itself is what it was"
    told = bootstrap(job.strata("search", found), job.objective_of("search").combine, 0)
    assert told.value == pytest.approx(0.5)
    assert 0 < told.low < 0.5 < told.high < 1
    chosen = replace(group, chance=0.6)
    assert job_of(chosen).objective("search", found) == pytest.approx((0.15 / 0.4 + 0 + 1) / 3)


def test_lines_are_what_a_floored_value_adds() -> None:
    """Their higher one, at any value, from an incumbent above chance and from one below."""
    share = Share("a", 1.0, Metric("acc"), [0.25])
    for incumbent in (0.1, 0.6):
        for value in (0.0, 0.2, 0.3, 0.9):
            floored = [max(0.0, (v - 0.25) / 0.75) for v in (value, incumbent)]
            found = max(slope * (value - incumbent) + constant for slope, constant in lines(share, incumbent, 2.0))
            assert found == pytest.approx(2.0 * (floored[0] - floored[1]))


def test_gradient_of_a_weighted_mean_and_of_a_minimum() -> None:
    shares = job_of(task("a", 1, weight=3.0), task("b", 1, Recorded(higher_is_better=False))).objective_of("search")
    assert isinstance(shares, Objective)
    assert gradient(shares.aggregated, np.array([0.4, 0.6])) == pytest.approx([0.75, -0.25])
    assert gradient(lambda values: values.min(axis=0), np.array([0.4, 0.6])) == pytest.approx([1.0, 0.0])


def test_same_seed_same_order_and_another_seed_another(two: tuple[Job, list[Scores]]) -> None:
    job, baselines = two
    orders = [set_course(job, baselines, RACING, seed).draws.order for seed in (0, 0, 1)]
    assert np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])
