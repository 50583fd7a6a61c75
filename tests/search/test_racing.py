"""Races over recorded scores: who is stopped, on what, and what is told of them."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from mergesearch.evaluators import Item, Metric
from mergesearch.evaluators._base import MeanOfItems
from mergesearch.search.config import Racing
from mergesearch.search.job import Job
from mergesearch.search.objective import Objective
from mergesearch.search.racing import Result, gradient, run_race, set_course
from mergesearch.search.tasks import Scores, Task

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


def test_blocks_hold_each_task_in_proportion(two: tuple[Job, list[Scores]]) -> None:
    job, baselines = two
    asked = Asked(baselines[0])
    result = run_race(job, set_course(job, baselines, RACING, 0), baselines[0], asked)
    counts = {name: [count for found, count in asked.blocks if found == name] for name in ("a", "b")}
    assert len(counts["a"]) == len(counts["b"]) > 5
    assert all(abs(a - 2 * b) <= 1 for a, b in zip(counts["a"], counts["b"], strict=True))
    assert 28 <= counts["a"][0] + counts["b"][0] <= 36
    assert result.count <= 450


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
        assert np.mean(found) == pytest.approx(float(worse[one.name].mean()), abs=0.04)
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
        assert result.values["bits"] == pytest.approx(float(candidate["bits"].mean()), abs=0.05)


def test_an_advantage_beyond_its_ceiling_calls_the_race_off() -> None:
    job = job_of(task("bits", 200, Recorded(higher_is_better=False)))
    rng = np.random.default_rng(0)
    baselines = [{"bits": torch.tensor(rng.normal(2.0, 0.1, 200))} for _ in range(3)]
    candidate = {"bits": baselines[0]["bits"] + 0.5}
    assert race(job, candidate, baselines[0], baselines).stopped
    candidate["bits"][::2] -= 5.0
    candidate["bits"][1::2] += 5.0
    assert not race(job, candidate, baselines[0], baselines).stopped


def test_gradient_of_a_weighted_mean_and_of_a_minimum() -> None:
    shares = job_of(task("a", 1, weight=3.0), task("b", 1, Recorded(higher_is_better=False))).objective_of("search")
    assert isinstance(shares, Objective)
    assert gradient(shares.combine, [0.4, 0.6]) == pytest.approx([0.75, -0.25])
    assert gradient(lambda values: values.min(axis=0), [0.4, 0.6]) == pytest.approx([1.0, 0.0])


def test_same_seed_same_order_and_another_seed_another(two: tuple[Job, list[Scores]]) -> None:
    job, baselines = two
    orders = [set_course(job, baselines, RACING, seed).tracks[0].draws.order for seed in (0, 0, 1)]
    assert np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])
