"""The arms of the search benchmark: our searches, and those of other projects, on one live problem."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import search_merge3 as merge3
import search_rivals as rivals
from optuna.trial import FrozenTrial
from search_common import Array, SearchEndedError
from search_problem import LINEAR, Meter, SearchProblem, Spent, Trace

from mergesearch.search.candidates.gradient.start import items_worth
from mergesearch.search.optimize.callbacks import RunView, Watcher
from mergesearch.search.run import run
from mergesearch.search.signal.signal import Signal
from mergesearch.search.study import trials as t
from mergesearch.search.verdict.result import Verdict


@dataclass(frozen=True)
class Outcome:
    """What an arm did. ``verdict``: that of our searches."""

    trace: Trace
    spent: Spent
    verdict: Verdict | None = None


Arm = Callable[[SearchProblem, int, float], Outcome]
"""Searches a problem with a seed, for a budget of items."""


def rival_arm(rival: rivals.Rival) -> Arm:
    """The search of another project, which scores every candidate in full."""

    def search(problem: SearchProblem, seed: int, budget: float) -> Outcome:
        meter = Meter(problem, budget)
        with suppress(SearchEndedError):
            rival(meter, seed)
        return Outcome(meter.trace, meter.spent)

    return search


def merge3_arm(problem: SearchProblem, seed: int, budget: float) -> Outcome:
    """See ``search_merge3``."""
    meter, rng = Meter(problem, budget), np.random.default_rng(seed)
    tasks = problem.tasks.counted("search")
    ends = [problem.search_scores(problem.plan.baselines.recipe_named(name)) for name in problem.bed.names]
    meter.charge(len(ends) * problem.search_items)
    models = [merge3.fit(np.stack([end[task.name].numpy() for end in ends]), seed) for task in tasks]
    known = [merge3.subset(len(task.search), rng) for task in tasks]
    best = -np.inf

    def score(point: Array) -> float:
        nonlocal best
        recipe = problem.recipe(point)
        answers = problem.scores_of(recipe, {task.name: k for task, k in zip(tasks, known, strict=True)})
        meter.charge(sum(map(len, known)))
        value = float(np.mean(merge3.combined(models, [answers[task.name] for task in tasks], known)))
        if value > best:
            best = value
            meter.note(recipe)
        meter.check_budget()
        return value

    with suppress(SearchEndedError):
        rivals.genetic(score, *problem.bounds, np.random.default_rng(seed))
    return Outcome(meter.trace, meter.spent)


def our_arm(**settings: Any) -> Arm:
    """Our own run, from its baselines to its verdict, with these settings under ``search`` in the config."""

    def search(problem: SearchProblem, seed: int, budget: float) -> Outcome:  # noqa: ARG001 - our trials are fewer
        spent, trace, began = Spent(), Trace(), time.process_time()
        plan, signals = problem.new_plan(**settings), list[Signal]()

        def on_begun(view: RunView) -> None:
            signals.append(Signal(view.tasks, view.store, plan.problem.config.search.signal))

        def on_trial(view: RunView, _: FrozenTrial) -> None:
            spent.items, spent.seconds = items_spent(view), time.process_time() - began
            if best := signals[0].best(t.contenders(view.study)):
                recipe = t.recipe_of(best)
                trace.note(spent, problem.key(recipe), recipe)

        with TemporaryDirectory() as folder:
            verdict = run(plan, Path(folder), Watcher(begun=on_begun, trial=on_trial))
        return Outcome(trace, spent, verdict)

    return search


def items_spent(view: RunView) -> float:
    """The items that a run has scored, and those that take as long as its descent took."""
    scored = sum(t.items_of(trial) for trial in t.finished(view.study))
    return scored + items_worth(view.study, view.store.folder)


EVOLVE, PLAIN = "mergekit-evolve", "CMA-ES from the best single weight"
OURS = "ours"
ARMS: dict[str, Arm] = {
    EVOLVE: rival_arm(rivals.mergekit_evolve(LINEAR)),
    PLAIN: rival_arm(rivals.cmaes_from_best_weight(LINEAR)),
    OURS: our_arm(),
    "ours without gradients": our_arm(start="none"),
    "ours by the metric alone": our_arm(signal="metric"),
    "Optuna's TPE": rival_arm(rivals.tpe),
    "Optuna's GP": rival_arm(rivals.gp),
    "random": rival_arm(rivals.random),
    "mergenetic's GA": rival_arm(rivals.mergenetic(LINEAR)),
    "MERGE3": merge3_arm,
}
