"""Racing against full scoring: items scored, better candidates stopped by error, quality of the winner.

    python benchmarks/racing.py [--orders N] [--pairs N] [--seed N] [--record results/runs/NAME]

Replays searches whose per-item scores are all recorded or simulated, so that every decision can be compared with the
true values of the metric. The recorded search is the demo's; ``--record`` records it from a run with
``search: {racing: false}``. All stopping rules see the same candidates and stop after the same blocks. Writes
results/benchmarks/racing.json and racing.md. The constants of the search's rule were chosen with ``--seed 1``, which
draws other candidates, items and orders.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import click
import numpy as np
import optuna
import torch
from machine import FOLDER, write_result
from racing_data import ORDERS_OF_A_SEED, Array, Case, all_cases, record
from rich.console import Console
from rich.markdown import Markdown
from scipy import stats
from torch import Tensor

from mergesearch.evaluators import Item, Metric
from mergesearch.evaluators.contract.evaluator import MeanOfItems
from mergesearch.evaluators.contract.graded import GradedByMargin
from mergesearch.search.config.search import Racing
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.problem.tasks import Margins, Scores, Task
from mergesearch.search.scoring.racing.plan import MOST_REFERENCES, RacePlan, plan_race
from mergesearch.search.scoring.racing.race import run_race
from mergesearch.search.signal.foresight import Ints

ERROR = 0.05
TOGETHER = 10
"""So many races of pairs have their references in common."""
OTHERS = 16
"""Every other time, so many candidates are references beside the baselines."""
Stop = Callable[[int, int, tuple[int, ...]], int]
"""(candidate, incumbent, references) -> the number of items scored before the candidate is stopped; all if it is not.

References are candidates that were scored in full, the incumbent among them."""
StoppingRule = Callable[[Case, int], Stop]
"""(case, seed of the item order) -> the rule's decisions."""


class RecordedScores(GradedByMargin, MeanOfItems):
    """The evaluator of a replayed task; its scores are looked up by ``ReplayedRaces``."""

    metric = Metric("score")
    has_margins: ClassVar[bool] = True

    def score_with_margins(self, *_: object) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class ReplayedRaces:
    """Races between the candidates of a case, each in an order of its own. ``graded``: with margins, if any."""

    def __init__(self, case: Case, seed: int, graded: bool = True) -> None:
        self._case, self._seed = case, seed
        self._graded = graded and case.margins is not None
        self._tasks = TaskSet([self._task(number) for number in np.unique(case.tasks)])

    def _task(self, number: int) -> Task:
        weights = np.ones(len(self._case.tasks)) if self._case.weights is None else self._case.weights
        places = np.flatnonzero(self._case.tasks == number)
        items = [Item(str(n), str(number), str(n), weight=float(weights[n])) for n in places]
        return Task(str(number), cast(Any, RecordedScores()), 1.0, items, [], keeps_margins=self._graded)

    @cache  # noqa: B019
    def _marks(self, candidate: int) -> tuple[Scores, Margins]:
        marks = {task.name: self._item_marks(candidate, task.search) for task in self._tasks}
        margins = {name: margins for name, (_, margins) in marks.items() if margins is not None}
        return {name: scores for name, (scores, _) in marks.items()}, margins

    def _item_marks(self, candidate: int, items: Sequence[Item]) -> tuple[Tensor, Tensor | None]:
        numbers = [int(item.id) for item in items]
        scores = torch.tensor(self._case.scores[candidate][numbers])
        if not self._graded or self._case.margins is None:
            return scores, None
        return scores, torch.tensor(self._case.margins[candidate][numbers])

    @cache  # noqa: B019
    def plan(self, references: tuple[int, ...]) -> RacePlan:
        """The plan that the run would have."""
        return plan_race(self._tasks, [self._marks(number) for number in references], Racing(error=ERROR), self._seed)

    def stop(self, candidate: int, incumbent: int, references: tuple[int, ...]) -> int:
        """See ``Stop``."""
        plan, (scores, _) = self.plan(references), self._marks(incumbent)
        score, name = (lambda _, items: self._item_marks(candidate, items)), f"{candidate} against {incumbent}"
        result = run_race(self._tasks, plan, scores, score, name)
        return result.count if result.stopped else len(self._case.tasks)


def ours(case: Case, seed: int) -> Stop:
    """The search's own rule."""
    return ReplayedRaces(case, seed).stop


def ours_without_grades(case: Case, seed: int) -> Stop:
    """The search's own rule, told the scores alone."""
    return ReplayedRaces(case, seed, graded=False).stop


def _blocks_and_order(case: Case, seed: int) -> tuple[list[int], Ints]:
    """Blocks as in a run's races, and one random order of the items."""
    blocks = ReplayedRaces(case, seed).plan(tuple(range(case.baselines))).blocks
    return list(blocks), np.random.default_rng(seed).permutation(len(case.tasks))


def _stop_by_p_value(
    case: Case, seed: int, p_value: Callable[[Array], float], level: Callable[[list[int]], float]
) -> Stop:
    """Stops after the first block whose p-value is below ``level`` of the blocks.

    ``p_value`` is one-sided and takes the [seen] differences of candidate and incumbent.
    """
    blocks, order = _blocks_and_order(case, seed)
    threshold = level(blocks)

    def stop(candidate: int, incumbent: int, _: tuple[int, ...]) -> int:
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
    blocks, order = _blocks_and_order(case, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        pruner = optuna.pruners.WilcoxonPruner(p_threshold=0.1)

    def stop(candidate: int, incumbent: int, _: tuple[int, ...]) -> int:
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
    "ours": ours,
    "ours, without grades": ours_without_grades,
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
    references = tuple(range(case.baselines))
    for candidate in range(case.baselines, len(objectives)):
        count = stop(candidate, best, references)
        shares.append(count / total)
        if objectives[candidate] < objectives[best] - 1e-12:
            dropped.append(count < total)
        if count == total:
            references = (*references, candidate)[:MOST_REFERENCES]
            best = candidate if objectives[candidate] > objectives[best] else best
    return shares, dropped, float(objectives.max() - objectives[best])


def better_pairs(case: Case, count: int, seed: int) -> list[tuple[int, int]]:
    """Random (better, worse) pairs of candidates among those with the smallest differences, which are the hardest."""
    objectives = case.objectives
    gaps = objectives[:, None] - objectives[None, :]
    better, worse = np.nonzero(gaps > 1e-9)
    nearest = np.argsort(gaps[better, worse], kind="stable")[: max(count, len(better) // 4)]
    chosen = np.random.default_rng(seed).choice(nearest, count)
    return [(int(better[n]), int(worse[n])) for n in chosen]


def some_references(case: Case, left_out: Sequence[int], seed: int) -> tuple[int, ...]:
    """The baselines, and every other time some of the candidates, without those that are raced."""
    others = np.setdiff1d(np.arange(case.baselines, len(case.scores)), left_out)
    count = OTHERS * (seed // TOGETHER % 2)
    chosen = np.random.default_rng(seed).choice(others, min(count, len(others)), replace=False)
    return tuple(np.setdiff1d([*range(case.baselines), *chosen], left_out).tolist())


def measure(case: Case, rule: StoppingRule, orders: Sequence[int], pairs: int) -> Outcome:
    """Replays a case with a stopping rule, in orders of the items with these seeds."""
    shares: list[float] = []
    dropped: list[bool] = []
    regrets: list[float] = []
    wrong, races = 0, 0
    for seed in orders:
        stop = rule(case, seed)
        shares_of_order, dropped_of_order, regret = replay_search(case, stop)
        shares += shares_of_order
        dropped += dropped_of_order
        regrets.append(regret)
        drawn = better_pairs(case, pairs // len(orders), seed)
        for begin in range(0, len(drawn), TOGETHER):
            together = drawn[begin : begin + TOGETHER]
            references = some_references(case, [better for better, _ in together], seed + begin)
            races += len(together)
            wrong += sum(stop(*pair, references) < len(case.tasks) for pair in together)
    return Outcome(float(np.mean(shares)), float(np.mean(dropped)), float(np.mean(regrets)), wrong, races)


def _measured(case: Case, orders: Sequence[int], pairs: int) -> dict[str, Outcome]:
    """Of every rule; grades are those of cases that have margins."""
    rules = {name: rule for name, rule in RULES.items() if rule is not ours_without_grades or case.margins is not None}
    return {name: measure(case, rule, orders, pairs) for name, rule in rules.items()}


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
@click.option("--pairs", default=200, show_default=True, help="How many races of a better candidate against a worse.")
@click.option("--seed", default=0, show_default=True, help="Of candidates, items and orders; only 0 is written.")
@click.option("--only", default="", help="Only cases with this in their name; writes nothing.")
@click.option("--record", "folder", type=click.Path(path_type=Path), help="Record the scores of this run first.")
def main(orders: int, pairs: int, seed: int, only: str, folder: Path | None) -> None:
    """Replays every case with every stopping rule."""
    if folder:
        record(folder)
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    cases = [case for case in all_cases(seed) if only in case.name]
    seeds = range(ORDERS_OF_A_SEED * seed, ORDERS_OF_A_SEED * seed + orders)
    results = {case.name: _measured(case, seeds, pairs) for case in cases}
    text = as_markdown(results)
    Console().print(Markdown(text))
    if only or seed:
        return
    (FOLDER / "racing.md").write_text(text)
    by_case = {
        case: {rule: as_json(outcome) for rule, outcome in outcomes.items()} for case, outcomes in results.items()
    }
    write_result("racing", {"error": ERROR, "orders": orders, "cases": by_case})


if __name__ == "__main__":
    main()
