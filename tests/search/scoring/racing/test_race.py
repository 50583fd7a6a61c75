"""Races over recorded scores: who is stopped, on what, and what is told of them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from mergesearch.evaluators import Item, Metric
from mergesearch.evaluators.contract.evaluator import MeanOfItems
from mergesearch.evaluators.contract.jackknife import FunctionOfMeans
from mergesearch.search.config.search import Racing
from mergesearch.search.problem.objective import Objective, Share
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.problem.tasks import Scores, Task
from mergesearch.search.scoring.racing.plan import RacePlan, plan_race
from mergesearch.search.scoring.racing.race import STEP, Result, gradient, lines, run_race
from mergesearch.search.statistics import estimated, value_of

from ....tolerances import close

RACING = Racing()


class Recorded(MeanOfItems):
    """A task whose scores are looked up: row by row of a candidate."""

    def __init__(self, higher_is_better: bool = True) -> None:
        self.metric = Metric("acc", higher_is_better)


class Squared(FunctionOfMeans):
    """The square of the mean score: no mean over items."""

    metric = Metric("squared")

    def statistic(self, means: Tensor) -> Tensor:
        return means[..., 0] ** 2


def task_set(*tasks: Task) -> TaskSet:
    return TaskSet(tasks)


def task(name: str, items: int, evaluator: Any = None, weight: float = 1.0) -> Task:
    fixed = [Item(str(number), name, str(number)) for number in range(items)]
    return Task(name, evaluator or Recorded(), weight, fixed, [])


def made(rng: np.random.Generator, tasks: TaskSet, level: float) -> Scores:
    """Answers to items of which a third are open."""
    scores: Scores = {}
    for one in tasks:
        ease = np.random.default_rng(len(one.search)).choice([0.0, 1.0, level], len(one.search), p=[0.1, 0.5, 0.4])
        right = rng.random(len(one.search)) < np.where(ease == level, level, ease)
        scores[one.name] = torch.tensor(right, dtype=torch.float64)
    return scores


class Asked:
    """Answers from a candidate's recorded scores, and remembers what it was asked."""

    def __init__(self, scores: Scores) -> None:
        self.scores = scores
        self.blocks: list[tuple[str, int]] = []

    def __call__(self, task: Task, items: Sequence[Item]) -> tuple[Tensor, Tensor | None]:
        self.blocks.append((task.name, len(items)))
        return self.scores[task.name][[int(item.id) for item in items]], None


def planned(tasks: TaskSet, references: Sequence[Scores], seed: int = 0) -> RacePlan:
    return plan_race(tasks, [(scores, {}) for scores in references], RACING, seed)


def race(tasks: TaskSet, candidate: Scores, incumbent: Scores, baselines: Sequence[Scores], seed: int = 0) -> Result:
    return run_race(tasks, planned(tasks, baselines, seed), incumbent, Asked(candidate), "one")


@pytest.fixture
def two() -> tuple[TaskSet, list[Scores]]:
    rng = np.random.default_rng(0)
    tasks = task_set(task("a", 300), task("b", 150))
    return tasks, [made(rng, tasks, 0.6) for _ in range(6)]


def test_blocks_hold_every_task_and_grow(two: tuple[TaskSet, list[Scores]]) -> None:
    tasks, baselines = two
    asked = Asked({name: torch.maximum(baselines[0][name], baselines[1][name]) for name in baselines[0]})
    result = run_race(tasks, planned(tasks, baselines, 0), baselines[0], asked, "one")
    first, counts = asked.blocks[:2], Counter[str]()
    for name, count in asked.blocks:
        counts[name] += count
    assert sum(count for _, count in first) == 32
    assert result.count == counts.total() == 450
    assert 14 <= dict(first)["a"] <= 28, "two thirds of the items, about equally open"


def test_a_candidate_that_is_never_stopped_is_scored_on_every_item_once(two: tuple[TaskSet, list[Scores]]) -> None:
    tasks, baselines = two
    better = {name: torch.maximum(baselines[0][name], baselines[1][name]) for name in baselines[0]}
    result = race(tasks, better, baselines[0], baselines)
    assert not result.stopped
    for one in tasks:
        assert torch.equal(result.scores[one.name], better[one.name])
        assert result.items[one.name] == list(one.search)
        assert result.values[one.name] == close(float(better[one.name].mean()), len(one.search))


def test_a_candidate_that_is_worse_is_stopped_early_and_estimated(two: tuple[TaskSet, list[Scores]]) -> None:
    tasks, baselines = two
    rng = np.random.default_rng(1)
    worse = {name: scores * torch.tensor(rng.random(len(scores)) < 0.8) for name, scores in baselines[0].items()}
    results = [race(tasks, worse, baselines[0], baselines, seed) for seed in range(40)]
    assert all(result.stopped for result in results)
    assert np.mean([result.count for result in results]) < 0.4 * 450
    for one in tasks:
        found = [result.values[one.name] for result in results]
        assert np.mean(found) == pytest.approx(float(worse[one.name].mean()), abs=0.12), "nobody foretells it"
    assert all(len(results[0].scores[name]) == len(results[0].items[name]) for name in ("a", "b"))


def test_candidates_that_are_better_are_kept(two: tuple[TaskSet, list[Scores]]) -> None:
    """By one item net, so that the objective is as near to the incumbent's as it can be."""
    tasks, baselines = two
    rng = np.random.default_rng(2)
    dropped = 0
    for seed in range(100):
        candidate = {name: scores.clone() for name, scores in baselines[0].items()}
        right, wrong = (rng.permutation(np.flatnonzero(baselines[0]["a"].numpy() == x)) for x in (1, 0))
        candidate["a"][right[:20]] = 0.0
        candidate["a"][wrong[:21]] = 1.0
        dropped += race(tasks, candidate, baselines[0], baselines, seed).stopped
    assert dropped <= 12, "binomial(100, 0.05) is above 12 once in 700 times"


def test_small_tasks_are_scored_in_full_first() -> None:
    tasks = task_set(task("a", 200), task("few", 5))
    rng = np.random.default_rng(0)
    baselines = [made(rng, tasks, 0.5) for _ in range(3)]
    asked = Asked(baselines[0])
    plan = planned(tasks, baselines)
    run_race(tasks, plan, baselines[1], asked, "one")
    assert asked.blocks[0] == ("few", 5)
    assert {name for name, _ in asked.blocks[1:]} == {"a"}
    assert plan.described.endswith("over 200 items; in full: few")


def test_a_value_that_is_no_mean_is_raced() -> None:
    tasks = task_set(task("a", 300, Squared()))
    baselines = [made(np.random.default_rng(seed), tasks, 0.6) for seed in range(6)]
    worse = {"a": baselines[0]["a"] * torch.tensor(np.random.default_rng(1).random(300) < 0.7)}
    results = [race(tasks, worse, baselines[0], baselines, seed) for seed in range(20)]
    assert all(result.stopped for result in results)
    truth = float(worse["a"].mean()) ** 2
    assert np.mean([result.values["a"] for result in results]) == pytest.approx(truth, abs=0.08)


def test_too_few_items_are_not_raced() -> None:
    tasks = task_set(task("a", 40))
    baselines = [made(np.random.default_rng(0), tasks, 0.5)]
    plan = planned(tasks, baselines, 0)
    assert "racing: off" in plan.described
    asked = Asked(baselines[0])
    assert not run_race(tasks, plan, baselines[0], asked, "one").stopped
    assert asked.blocks == [("a", 40)]


def test_a_metric_of_which_less_is_better() -> None:
    """Bits per byte: no upper end, so a widest step is taken from the baselines."""
    tasks = task_set(task("bits", 200, Recorded(higher_is_better=False)))
    rng = np.random.default_rng(0)
    ease = rng.normal(2.0, 0.5, 200)
    baselines = [{"bits": torch.tensor(ease + rng.normal(shift, 0.2, 200))} for shift in (0.0, 0.2, -0.1)]
    for shift, stopped in ((0.2, True), (-0.3, False)):
        candidate = {"bits": torch.tensor(ease + rng.normal(shift, 0.1, 200))}
        result = race(tasks, candidate, baselines[2], baselines)
        assert result.stopped is stopped
        assert result.values["bits"] == pytest.approx(float(candidate["bits"].mean()), abs=0.1)


def test_a_candidate_that_is_better_by_a_few_items_is_kept() -> None:
    """One item in eight gains what no baseline foretells; the others lose a little."""
    tasks = task_set(task("bits", 240, Recorded(higher_is_better=False)))
    rng = np.random.default_rng(0)
    baselines = [{"bits": torch.tensor(rng.normal(2.0, 0.1, 240))} for _ in range(5)]
    candidate = {"bits": baselines[0]["bits"] + 0.3}
    assert all(race(tasks, candidate, baselines[0], baselines, seed).stopped for seed in range(10))
    candidate["bits"][torch.randperm(240, generator=torch.Generator().manual_seed(0))[:30]] -= 3.0
    assert candidate["bits"].mean() < baselines[0]["bits"].mean()
    assert sum(race(tasks, candidate, baselines[0], baselines, seed).stopped for seed in range(60)) <= 8


def mixtures(rng: np.random.Generator, count: int, own: float) -> list[Scores]:
    """Margins of candidates that are made of the same three directions, and of a part of their own."""
    parts, ease = np.random.default_rng(5).normal(size=(3, 300)), np.random.default_rng(6).normal(1, 2, 300)
    shares = rng.normal(size=(count, 3))
    return [{"a": torch.tensor(ease + share @ parts + own * rng.normal(size=300))} for share in shares]


def test_margins_are_raced_on_what_the_baselines_do_not_foretell() -> None:
    tasks = task_set(task("a", 300))
    rng = np.random.default_rng(0)
    baselines, candidates = mixtures(rng, 7, 0.1), mixtures(rng, 40, 0.1)
    best = max(baselines, key=lambda scores: float(scores["a"].mean()))
    worse = [one for one in candidates if float((best["a"] - one["a"]).mean()) > 0.05]
    spent = [race(tasks, one, best, baselines).count / 300 for one in worse]
    assert len(worse) > 20
    assert np.mean(spent) < 0.35


def choices(*right: tuple[int, int]) -> Scores:
    """Of each task, a or b, so many right answers of so many."""
    rng = np.random.default_rng(7)
    return {
        name: torch.tensor(rng.permutation(np.arange(items) < count), dtype=torch.float64)
        for name, (count, items) in zip("ab", right, strict=True)
    }


def normalised(items: int = 200) -> TaskSet:
    """Two tasks of four choices."""
    tasks = [replace(task(name, items), normalize=True, chance=0.25) for name in "ab"]
    return task_set(*tasks)


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
    tasks = normalised()
    assert tasks.combined("search", better) > tasks.combined("search", incumbent)
    baselines = [incumbent, choices((50, 200), (50, 200)), choices((80, 200), (30, 200))]
    stopped = sum(race(tasks, better, incumbent, baselines, seed).stopped for seed in range(60))
    assert stopped <= 8, "binomial(60, 0.05) is above 8 once in 400 times"


def test_a_worse_candidate_is_stopped_where_values_are_floored_at_chance() -> None:
    tasks, incumbent = normalised(), choices((140, 200), (60, 200))
    baselines = [incumbent, choices((50, 200), (50, 200)), choices((80, 200), (30, 200))]
    results = [race(tasks, choices((80, 200), (30, 200)), incumbent, baselines, seed) for seed in range(10)]
    assert all(result.stopped for result in results)
    estimates = [result.estimate for result in results if result.estimate is not None]
    assert len(estimates) == 10
    assert np.mean(estimates) == pytest.approx((0.15 / 0.75) / 2, abs=0.1), "the second task is floored"


def test_subtasks_that_are_normalised_one_by_one_are_scored_in_full() -> None:
    one, other = normalised(100)
    group = replace(one, search=[replace(item, subtask=str(n % 2)) for n, item in enumerate(one.search)])
    tasks = task_set(group, other)
    asked = Asked(choices((20, 100), (20, 100)))
    incumbent = choices((80, 100), (80, 100))
    plan = planned(tasks, [incumbent, choices((50, 100), (50, 100)), asked.scores])
    result = run_race(tasks, plan, incumbent, asked, "one")
    assert asked.blocks[0] == ("a", 100)
    assert plan.in_full == [group]
    assert result.stopped


def test_a_normalised_group_counts_by_the_plain_mean_of_its_subtasks() -> None:
    """3 of 4 right of two choices each, 1 of 8 of four, and 5 of 5 of five: 0.5, 0 (below chance) and 1."""
    sizes, rights, choice_counts = (4, 8, 5), (3, 1, 5), (2, 4, 5)
    items = [
        Item(f"{part}/{n}", "g", f"{part}/{n}", chance=1 / choice_counts[part], subtask=str(part))
        for part, size in enumerate(sizes)
        for n in range(size)
    ]
    scores = [float(n < right) for size, right in zip(sizes, rights, strict=True) for n in range(size)]
    mixed = [n * 7 % 17 for n in range(17)]
    group = Task("g", cast(Any, Recorded()), 1.0, [items[n] for n in mixed], [], normalize=True)
    tasks, found = (
        task_set(group, task("plain", 4)),
        {"g": torch.tensor([scores[n] for n in mixed], dtype=torch.float64)},
    )
    found["plain"] = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    assert tasks.combined("search", found) == close((0.5 + 0.5) / 2, 32)
    assert tasks.values("search", found)["g"] == close(9 / 17, 17), "the metric itself is what it was"
    told = estimated(value_of(tasks.strata("search", found), tasks.objective("search").combine), 0)
    assert told.value == close(0.5, 32)
    assert 0 < told.low < 0.5 < told.high < 1
    chosen = replace(group, chance=0.6)
    assert task_set(chosen).combined("search", found) == close((0.15 / 0.4 + 0 + 1) / 3, 32)


def test_lines_are_what_a_floored_value_adds() -> None:
    """Their higher one, at any value, from an incumbent above chance and from one below."""
    share = Share("a", 1.0, Metric("acc"), [0.25])
    for incumbent in (0.1, 0.6):
        for value in (0.0, 0.2, 0.3, 0.9):
            floored = [max(0.0, (v - 0.25) / 0.75) for v in (value, incumbent)]
            found = max(slope * (value - incumbent) + constant for slope, constant in lines(share, incumbent, 2.0))
            assert found == close(2.0 * (floored[0] - floored[1]), 8, magnitude=2.0)


def test_gradient_of_a_weighted_mean_and_of_a_minimum() -> None:
    shares = task_set(task("a", 1, weight=3.0), task("b", 1, Recorded(higher_is_better=False))).objective("search")
    assert isinstance(shares, Objective)
    # Differences over a step that small: what rounds a value counts so many times more.
    many = {"operations": 8, "magnitude": 1 / STEP}
    assert gradient(shares.aggregated, np.array([0.4, 0.6])) == close([0.75, -0.25], **many)
    assert gradient(lambda values: values.min(axis=0), np.array([0.4, 0.6])) == close([1.0, 0.0], **many)


def test_each_seed_and_each_candidate_has_its_order(two: tuple[TaskSet, list[Scores]]) -> None:
    tasks, baselines = two
    named = [(0, "a"), (0, "a"), (1, "a"), (0, "b")]
    orders = [np.concatenate(planned(tasks, baselines, seed).blocks_of(name)).tolist() for seed, name in named]
    assert sorted(orders[0]) == list(range(450))
    assert orders[0] == orders[1]
    assert orders[0] not in orders[2:]


def test_nobody_is_stopped_without_an_error(two: tuple[TaskSet, list[Scores]]) -> None:
    tasks, baselines = two
    asked = Asked({name: 0 * scores for name, scores in baselines[0].items()})
    assert run_race(tasks, planned(tasks, baselines), baselines[0], asked, "one").stopped
    assert not run_race(tasks, replace(planned(tasks, baselines), error=0.0), baselines[0], asked, "one").stopped


def test_a_candidate_that_gains_less_than_asked_for_is_stopped_earlier(two: tuple[TaskSet, list[Scores]]) -> None:
    """Its answers are the incumbent's."""
    tasks, baselines = two
    eager = plan_race(tasks, [(scores, {}) for scores in baselines], Racing(least_gain=0.1), 0)
    found = [run_race(tasks, eager, baselines[0], Asked(baselines[0]), str(number)) for number in range(20)]
    assert all(result.stopped for result in found)
    assert sum(race(tasks, baselines[0], baselines[0], baselines, seed).stopped for seed in range(20)) <= 4
