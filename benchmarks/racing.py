"""Racing against full scoring: items scored, better candidates stopped by error, quality of the winner.

    python benchmarks/racing.py [--orders N] [--pairs N] [--record results/runs/NAME]

Replays searches whose per-item scores are all recorded or simulated, so that every decision can be compared with the
true scores. The recorded search is the demo's; ``--record`` records it from a run with ``search: {racing: false}``.
All stopping rules see the same candidates and stop after the same blocks. Writes results/benchmarks/racing.json and
racing.md.
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
from racing_data import Array, Case, ScoreModel, record, recorded, recorded_margins, simulated
from rich.console import Console
from rich.markdown import Markdown
from scipy import stats
from torch import Tensor

from mergesearch.evaluators import Item, Metric
from mergesearch.evaluators.contract.evaluator import MeanOfItems
from mergesearch.search.config.search import Racing
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.problem.tasks import Scores, Task
from mergesearch.search.scoring.racing.betting_test import Draws
from mergesearch.search.scoring.racing.plan import RacePlan, plan_race
from mergesearch.search.scoring.racing.race import run_race

ERROR = 0.05
Stop = Callable[[int, int], int]
"""(candidate, incumbent) -> the number of items scored before the candidate is stopped; all items if it is not."""
StoppingRule = Callable[[Case, int], Stop]
"""(case, seed of the item order) -> the rule's decisions."""


class RecordedScores(MeanOfItems):
    """The evaluator of a replayed task; its scores are looked up by ``ReplayedRaces``."""

    metric = Metric("score")


class ReplayedRaces:
    """Races between the candidates of a case, in one order of the items.

    ``uniform`` draws every item at the same rate, in place of the race plan's rates.
    """

    def __init__(self, case: Case, seed: int, uniform: bool = False) -> None:
        self._case = case
        self._tasks = TaskSet([self._task(number) for number in np.unique(case.tasks)])
        baselines = [self._scores(number) for number in range(case.baselines)]
        plan = plan_race(self._tasks, baselines, Racing(error=ERROR), seed)
        self._plan = _with_uniform_draws(plan, seed) if uniform else plan

    def _task(self, number: int) -> Task:
        items = [Item(str(n), str(number), str(n)) for n in np.flatnonzero(self._case.tasks == number)]
        return Task(str(number), cast(Any, RecordedScores()), 1.0, items, [])

    @cache  # noqa: B019
    def _scores(self, candidate: int) -> Scores:
        return {task.name: self._item_scores(candidate, task.search) for task in self._tasks}

    def _item_scores(self, candidate: int, items: Sequence[Item]) -> Tensor:
        scores = self._case.scores[candidate]
        return torch.tensor([scores[int(item.id)] for item in items])

    def stop(self, candidate: int, incumbent: int) -> int:
        """See ``Stop``."""
        result = run_race(
            self._tasks,
            self._plan,
            self._scores(incumbent),
            lambda _, items: (self._item_scores(candidate, items), None),
        )
        return result.count if result.stopped else len(self._case.tasks)

    @property
    def blocks(self) -> list[int]:
        """After how many items a candidate may be stopped."""
        return list(self._plan.blocks)

    @property
    def order(self) -> Array:
        """[items]: the items in the order in which they are drawn."""
        numbers = np.array([int(item.id) for raced in self._plan.raced_tasks for item in raced.task.search])
        return numbers[self._plan.draws.order]


def _with_uniform_draws(plan: RacePlan, seed: int) -> RacePlan:
    return replace(plan, draws=Draws.of(np.ones(len(plan.draws.order)), seed))


def betting(case: Case, seed: int) -> Stop:
    """The search's own rule."""
    return ReplayedRaces(case, seed).stop


def betting_uniform(case: Case, seed: int) -> Stop:
    """The search's own rule, with every item drawn at the same rate."""
    return ReplayedRaces(case, seed, uniform=True).stop


def _stop_by_p_value(
    case: Case, seed: int, p_value: Callable[[Array], float], level: Callable[[list[int]], float]
) -> Stop:
    """Stops after the first block whose p-value is below ``level`` of the blocks.

    ``p_value`` is one-sided and takes the [seen] differences of candidate and incumbent.
    """
    races = ReplayedRaces(case, seed, uniform=True)
    blocks, order = races.blocks, races.order
    threshold = level(blocks)

    def stop(candidate: int, incumbent: int) -> int:
        gains = (case.scores[candidate] - case.scores[incumbent])[order]
        return next((seen for seen in blocks if p_value(gains[:seen]) < threshold), len(order))

    return stop


def _mcnemar(gains: Array) -> float:
    """The exact one-sided McNemar test: a sign test on the items with different scores."""
    losses, wins = int((gains < 0).sum()), int((gains > 0).sum())
    return float(stats.binomtest(losses, losses + wins, alternative="greater").pvalue) if losses + wins else 1.0


def _wilcoxon(gains: Array) -> float:
    return float(stats.wilcoxon(gains, alternative="less", zero_method="zsplit").pvalue)


def _test_for(case: Case) -> Callable[[Array], float]:
    return _mcnemar if set(np.unique(case.scores)) <= {0.0, 1.0} else _wilcoxon


def uncorrected(case: Case, seed: int) -> Stop:
    """A test at level ERROR after every block, without a correction for several looks."""
    return _stop_by_p_value(case, seed, _test_for(case), lambda _: ERROR)


def pocock(case: Case, seed: int) -> Stop:
    """A group-sequential test whose levels add up to ERROR."""
    return _stop_by_p_value(case, seed, _test_for(case), _pocock_level)


def _pocock_level(blocks: list[int]) -> float:
    """The nominal level that, used after every block, gives ERROR over all blocks (Pocock 1977), by simulation."""
    steps = np.sqrt(np.diff([0, *blocks])) * np.random.default_rng(0).normal(size=(20_000, len(blocks)))
    highest = (np.cumsum(steps, axis=1) / np.sqrt(blocks)).max(axis=1)
    return float(stats.norm.sf(np.quantile(highest, 1 - ERROR)))


def optuna_wilcoxon(case: Case, seed: int) -> Stop:
    """Optuna's WilcoxonPruner with its default threshold, called after every block."""
    races = ReplayedRaces(case, seed, uniform=True)
    blocks, order = races.blocks, races.order
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        pruner = optuna.pruners.WilcoxonPruner(p_threshold=0.1)

    def stop(candidate: int, incumbent: int) -> int:
        best, current = (dict(enumerate(case.scores[number][order].tolist())) for number in (incumbent, candidate))
        study = SimpleNamespace(
            best_trial=SimpleNamespace(intermediate_values=best), direction=optuna.study.StudyDirection.MAXIMIZE
        )
        for seen in blocks:
            trial = SimpleNamespace(number=0, intermediate_values={n: current[n] for n in range(seen)})
            if pruner.prune(cast(Any, study), cast(Any, trial)):
                return seen
        return len(order)

    return stop


RULES: dict[str, StoppingRule] = {
    "betting test, informative items first (ours)": betting,
    "betting test, items at equal rates": betting_uniform,
    "group-sequential (Pocock), McNemar or Wilcoxon": pocock,
    "uncorrected p < 0.05 after every block": uncorrected,
    "Optuna's WilcoxonPruner": optuna_wilcoxon,
}


@dataclass(frozen=True)
class Outcome:
    """The results of a stopping rule over several orders of the items.

    items: the mean share of the items that a candidate was scored on; dropped_worse: the share of worse candidates that
    were stopped; regret: the mean difference between the best objective and the winner's; wrong: how many better
    candidates were stopped, in ``pairs`` races of a better candidate against a worse incumbent.
    """

    items: float
    dropped_worse: float
    regret: float
    wrong: int
    pairs: int

    @property
    def error(self) -> tuple[float, float, float]:
        """The share of better candidates that were stopped, with its exact 95 % interval."""
        interval = stats.binomtest(self.wrong, self.pairs).proportion_ci()
        return self.wrong / self.pairs, float(interval.low), float(interval.high)


def replay_search(case: Case, stop: Stop) -> tuple[list[float], list[bool], float]:
    """Replays a search with a stopping rule.

    Returns the share of the items that each candidate was scored on, whether each worse candidate was stopped, and the
    winner's regret.
    """
    objectives, total = case.objectives, len(case.tasks)
    best = int(np.argmax(objectives[: case.baselines]))
    shares, dropped = [], []
    for candidate in range(case.baselines, len(objectives)):
        count = stop(candidate, best)
        shares.append(count / total)
        if objectives[candidate] < objectives[best] - 1e-12:
            dropped.append(count < total)
        if count == total and objectives[candidate] > objectives[best]:
            best = candidate
    return shares, dropped, float(objectives.max() - objectives[best])


def better_pairs(case: Case, count: int, seed: int) -> list[tuple[int, int]]:
    """Random (better, worse) pairs of candidates among those with the smallest differences, which are the hardest."""
    objectives = case.objectives
    gaps = objectives[:, None] - objectives[None, :]
    better, worse = np.nonzero(gaps > 1e-9)
    nearest = np.argsort(gaps[better, worse], kind="stable")[: max(count, len(better) // 4)]
    chosen = np.random.default_rng(seed).choice(nearest, count)
    return [(int(better[n]), int(worse[n])) for n in chosen]


def measure(case: Case, rule: StoppingRule, orders: int, pairs: int) -> Outcome:
    """Replays a case with a stopping rule, in ``orders`` orders of the items."""
    shares: list[float] = []
    dropped: list[bool] = []
    regrets: list[float] = []
    wrong, races = 0, 0
    for seed in range(orders):
        stop = rule(case, seed)
        shares_of_order, dropped_of_order, regret = replay_search(case, stop)
        shares += shares_of_order
        dropped += dropped_of_order
        regrets.append(regret)
        for better, worse in better_pairs(case, pairs // orders, seed):
            races += 1
            wrong += stop(better, worse) < len(case.tasks)
    return Outcome(float(np.mean(shares)), float(np.mean(dropped)), float(np.mean(regrets)), wrong, races)


def as_markdown(results: dict[str, dict[str, Outcome]]) -> str:
    """One table for each case."""
    lines = [
        "# Racing",
        "",
        f"Each candidate after the baselines is raced against the best one so far, with error: {ERROR}. *Items* is the",
        "share of the items that were scored. *Wrongly stopped* is the share of races in which a candidate was stopped",
        "that is better than the incumbent, by one of the smallest differences, with its exact 95 % interval. *Regret*",
        "is the best candidate's objective minus the winner's.",
    ]
    for case, outcomes in results.items():
        lines += ["", f"## {case}", "", "| | items | worse ones stopped | wrongly stopped | regret |"]
        lines += ["|---|---|---|---|---|", *(_row(rule, outcome) for rule, outcome in outcomes.items())]
    return "\n".join(lines) + "\n"


def _row(rule: str, outcome: Outcome) -> str:
    rate, low, high = outcome.error
    return (
        f"| {rule} | {outcome.items:.1%} | {outcome.dropped_worse:.1%} | {rate:.1%} [{low:.1%}, {high:.1%}] | "
        f"{outcome.regret:.4f} |"
    )


def as_json(outcome: Outcome) -> dict[str, Any]:
    """The fields of an outcome, with its error."""
    rate, low, high = outcome.error
    names = ("items", "dropped_worse", "regret", "wrong", "pairs")
    return {**{name: getattr(outcome, name) for name in names}, "error": rate, "error_interval": [low, high]}


@click.command()
@click.option("--orders", default=4, show_default=True, help="How many orders of the items.")
@click.option("--pairs", default=400, show_default=True, help="How many races of a better candidate against a worse.")
@click.option("--record", "folder", type=click.Path(path_type=Path), help="Record the scores of this run first.")
def main(orders: int, pairs: int, folder: Path | None) -> None:
    """Replays every case with every stopping rule."""
    if folder:
        record(folder)
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    cases = [recorded(), simulated(640, 0), simulated(2000, 1), recorded_margins(), simulated(640, 2, "margins")]
    hard: list[ScoreModel] = ["heavy-tailed margins", "skewed margins", "unpredictable margins"]
    cases += [simulated(640, 3 + seed, model) for seed, model in enumerate(hard)]
    results = {case.name: {name: measure(case, rule, orders, pairs) for name, rule in RULES.items()} for case in cases}
    text = as_markdown(results)
    Console().print(Markdown(text))
    (FOLDER / "racing.md").write_text(text)
    by_case = {
        case: {rule: as_json(outcome) for rule, outcome in outcomes.items()} for case, outcomes in results.items()
    }
    write_result("racing", {"error": ERROR, "orders": orders, "cases": by_case})


if __name__ == "__main__":
    main()
