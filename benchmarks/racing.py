"""Racing against scoring in full: items spent, better candidates wrongly dropped, quality of the winner.

    python benchmarks/racing.py [--orders N] [--pairs N] [--record results/runs/NAME]

Replays searches whose per-item scores are all known, so that every decision can be held against the truth: the demo's
search (recorded by ``--record`` from a run with ``search: {racing: false}``) and simulated ones. All ways of stopping
see the same candidates and the same blocks. Writes results/benchmarks/racing.json and racing.md.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import click
import numpy as np
import optuna
import torch
from machine import FOLDER, write_result
from racing_data import Array, Case, Kind, record, recorded, recorded_margins, simulated
from rich.console import Console
from rich.markdown import Markdown
from scipy import stats
from torch import Tensor

from mergesearch.evaluators import Item, Metric
from mergesearch.evaluators.contract.evaluator import MeanOfItems
from mergesearch.search.config import Racing
from mergesearch.search.problem.problem import Job
from mergesearch.search.problem.tasks import Scores, Task
from mergesearch.search.scoring.racing.betting_test import Draws
from mergesearch.search.scoring.racing.plan import Course, set_course
from mergesearch.search.scoring.racing.race import run_race

ERROR = 0.05
PLAIN = cast(Any, SimpleNamespace(evaluate=SimpleNamespace(aggregate="mean", normalize=False, constraints=[])))
"""As much of a config as a job's objective asks for."""
Stop = Callable[[int, int], int]
"""(candidate, incumbent) -> the number of items after which the candidate is stopped; all items where it is not."""


class _Recorded(MeanOfItems):
    metric = Metric("score")


class Replay:
    """A case as a job that looks its scores up, with an order of its items."""

    def __init__(self, case: Case, seed: int, uniform: bool = False) -> None:
        self.case = case
        self.tasks = [self._task(number) for number in np.unique(case.tasks)]
        self.job = Job(PLAIN, cast(Any, None), cast(Any, None), self.tasks, [], "")
        course = set_course(self.job, [self.scores(n) for n in range(case.baselines)], Racing(error=ERROR), seed)
        self.course = _uniform(course, seed) if uniform else course

    def _task(self, number: int) -> Task:
        items = [Item(str(n), str(number), str(n)) for n in np.flatnonzero(self.case.tasks == number)]
        return Task(str(number), cast(Any, _Recorded()), 1.0, items, [])

    @cache  # noqa: B019
    def scores(self, candidate: int) -> Scores:
        row = self.case.scores[candidate]
        return {task.name: torch.tensor([row[int(item.id)] for item in task.search]) for task in self.tasks}

    def stop(self, candidate: int, incumbent: int) -> int:
        def score(_: Task, items: Sequence[Item]) -> Tensor:
            return torch.tensor([row[int(item.id)] for item in items])

        row = self.case.scores[candidate]
        result = run_race(self.job, self.course, self.scores(incumbent), score)
        return result.count if result.stopped else len(row)

    def order(self) -> tuple[list[int], Array]:
        """How many items are seen at each look, and all items in the order of their draws."""
        numbers = np.array([int(item.id) for track in self.course.tracks for item in track.task.search])
        return list(self.course.blocks), numbers[self.course.draws.order]


def _uniform(course: Course, seed: int) -> Course:
    """The same course with every item equally early."""
    return replace(course, draws=Draws.of(np.ones(len(course.draws.order)), seed))


def betting(case: Case, seed: int) -> Stop:
    return Replay(case, seed).stop


def betting_uniform(case: Case, seed: int) -> Stop:
    return Replay(case, seed, uniform=True).stop


def _by_p(case: Case, seed: int, p_value: Callable[[Array], float], level: Callable[[list[int]], float]) -> Stop:
    """Stops at the first look with a p-value below a level; p_value: of [seen] differences, one-sided."""
    looks, order = Replay(case, seed, uniform=True).order()
    threshold = level(looks)

    def stop(candidate: int, incumbent: int) -> int:
        gains = (case.scores[candidate] - case.scores[incumbent])[order]
        return next((seen for seen in looks if p_value(gains[:seen]) < threshold), len(order))

    return stop


def _mcnemar(gains: Array) -> float:
    """The exact one-sided test of McNemar, a sign test on what differs."""
    losses, wins = int((gains < 0).sum()), int((gains > 0).sum())
    return float(stats.binomtest(losses, losses + wins, alternative="greater").pvalue) if losses + wins else 1.0


def _wilcoxon(gains: Array) -> float:
    return float(stats.wilcoxon(gains, alternative="less", zero_method="zsplit").pvalue)


def uncorrected(case: Case, seed: int) -> Stop:
    return _by_p(case, seed, _test_for(case), lambda _: ERROR)


def pocock(case: Case, seed: int) -> Stop:
    return _by_p(case, seed, _test_for(case), _pocock_level)


def _test_for(case: Case) -> Callable[[Array], float]:
    return _mcnemar if set(np.unique(case.scores)) <= {0.0, 1.0} else _wilcoxon


def _pocock_level(looks: list[int]) -> float:
    """The nominal level that, used at every look, comes to ERROR over all (Pocock 1977), by simulation."""
    steps = np.sqrt(np.diff([0, *looks])) * np.random.default_rng(0).normal(size=(20_000, len(looks)))
    highest = (np.cumsum(steps, axis=1) / np.sqrt(looks)).max(axis=1)
    return float(stats.norm.sf(np.quantile(highest, 1 - ERROR)))


def optuna_wilcoxon(case: Case, seed: int) -> Stop:
    """Optuna's own pruner at its default threshold, asked after every block."""
    looks, order = Replay(case, seed, uniform=True).order()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        pruner = optuna.pruners.WilcoxonPruner(p_threshold=0.1)

    def stop(candidate: int, incumbent: int) -> int:
        rows = [dict(enumerate(case.scores[number][order].tolist())) for number in (incumbent, candidate)]
        study = SimpleNamespace(
            best_trial=SimpleNamespace(intermediate_values=rows[0]), direction=optuna.study.StudyDirection.MAXIMIZE
        )
        for seen in looks:
            shown = SimpleNamespace(number=0, intermediate_values={n: rows[1][n] for n in range(seen)})
            if pruner.prune(cast(Any, study), cast(Any, shown)):
                return seen
        return len(order)

    return stop


WAYS: dict[str, Callable[[Case, int], Stop]] = {
    "betting, items that differ first (ours)": betting,
    "betting, all items alike": betting_uniform,
    "group-sequential (Pocock), McNemar or Wilcoxon": pocock,
    "uncorrected p < 0.05 at every look": uncorrected,
    "Optuna's WilcoxonPruner": optuna_wilcoxon,
}


@dataclass(frozen=True)
class Outcome:
    """What a way of stopping comes to, over several orders of the items."""

    items: float
    dropped_worse: float
    regret: float
    wrong: int
    pairs: int

    @property
    def error(self) -> tuple[float, float, float]:
        """The share of better candidates that were dropped, with its exact 95 % interval."""
        found = stats.binomtest(self.wrong, self.pairs)
        interval = found.proportion_ci()
        return self.wrong / self.pairs, float(interval.low), float(interval.high)


def replay_search(case: Case, stop: Stop) -> tuple[list[float], list[bool], float]:
    """(each candidate's share of the items, whether each worse one was dropped, what the winner lacks)."""
    values, total = case.objectives, len(case.tasks)
    best = int(np.argmax(values[: case.baselines]))
    spent, dropped = [], []
    for candidate in range(case.baselines, len(values)):
        count = stop(candidate, best)
        spent.append(count / total)
        dropped += [count < total] if values[candidate] < values[best] - 1e-12 else []
        if count == total and values[candidate] > values[best]:
            best = candidate
    return spent, dropped, float(values.max() - values[best])


def better_pairs(case: Case, count: int, seed: int) -> list[tuple[int, int]]:
    """(better, worse) pairs of candidates at random, of those that differ least: the hardest not to drop."""
    values = case.objectives
    gaps = values[:, None] - values[None, :]
    better, worse = np.nonzero(gaps > 1e-9)
    nearest = np.argsort(gaps[better, worse], kind="stable")[: max(count, len(better) // 4)]
    chosen = np.random.default_rng(seed).choice(nearest, count)
    return [(int(better[n]), int(worse[n])) for n in chosen]


def measure(case: Case, way: Callable[[Case, int], Stop], orders: int, pairs: int) -> Outcome:
    spent: list[float] = []
    dropped: list[bool] = []
    regrets, wrong, tried = [], 0, 0
    for seed in range(orders):
        stop = way(case, seed)
        shares, worse, regret = replay_search(case, stop)
        spent, dropped, regrets = spent + shares, dropped + worse, [*regrets, regret]
        for one, two in better_pairs(case, pairs // orders, seed):
            tried += 1
            wrong += stop(one, two) < len(case.tasks)
    return Outcome(float(np.mean(spent)), float(np.mean(dropped)), float(np.mean(regrets)), wrong, tried)


def _line(name: str, found: Outcome) -> str:
    rate, low, high = found.error
    return (
        f"| {name} | {found.items:.1%} | {found.dropped_worse:.1%} | {rate:.1%} [{low:.1%}, {high:.1%}] | "
        f"{found.regret:.4f} |"
    )


def report(results: dict[str, dict[str, Outcome]]) -> str:
    """The tables in Markdown."""
    lines = [
        "# Racing",
        "",
        f"Candidates after the baselines are raced against the best so far, at a promised error of {ERROR:.0%}. Items:",
        "share of what scoring in full takes. Wrongly dropped: share of races in which a candidate that is better, by",
        "as little as there is, was stopped, with its exact 95 % interval. Regret: what the winner lacks of the best",
        "candidate's objective.",
    ]
    for case, ways in results.items():
        lines += ["", f"## {case}", "", "| | items | worse ones dropped | wrongly dropped | regret |"]
        lines += ["|---|---|---|---|---|", *(_line(name, found) for name, found in ways.items())]
    return "\n".join(lines) + "\n"


def as_json(found: Outcome) -> dict[str, Any]:
    rate, low, high = found.error
    names = ("items", "dropped_worse", "regret", "wrong", "pairs")
    return {**{name: getattr(found, name) for name in names}, "error": rate, "error_interval": [low, high]}


@click.command()
@click.option("--orders", default=4, show_default=True, help="How many orders of the items to try.")
@click.option("--pairs", default=400, show_default=True, help="How many races of a better candidate against a worse.")
@click.option("--record", "folder", type=click.Path(path_type=Path), help="Record this run's scores first.")
def main(orders: int, pairs: int, folder: Path | None) -> None:
    """Replays the searches with every way of stopping."""
    if folder:
        record(folder)
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    cases = [recorded(), simulated(640, 0), simulated(2000, 1), recorded_margins(), simulated(640, 2, "margins")]
    hard: list[Kind] = ["heavy-tailed margins", "skewed margins", "margins that nothing foretells"]
    cases += [simulated(640, 3 + seed, kind) for seed, kind in enumerate(hard)]
    results = {case.name: {name: measure(case, way, orders, pairs) for name, way in WAYS.items()} for case in cases}
    text = report(results)
    Console().print(Markdown(text))
    (FOLDER / "racing.md").write_text(text)
    found = {case: {name: as_json(way) for name, way in ways.items()} for case, ways in results.items()}
    write_result("racing", {"error": ERROR, "orders": orders, "cases": found})


if __name__ == "__main__":
    main()
