"""Where the time of a trial is spent on the demo: build, forward pass, harness, sampler, storage.

    python benchmarks/trial_breakdown.py [--trials N] [--threads N]

Requires the demo's checkpoints, which ``mergesearch demo`` creates. Prints a table and writes
results/benchmarks/trial_breakdown.json.
"""

import functools
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from machine import write_result
from rich.console import Console
from rich.table import Table

from mergesearch.merge_ops.engine.engine import Engine
from mergesearch.search.candidates.plan import open_plan
from mergesearch.search.config import Config
from mergesearch.search.session import Session
from mergesearch.search.space.space import Space
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_folder import RunFolder
from mergesearch.search.study.run_store import RunStore

WARM_UP_TRIALS = 10
"""Sampled trials before the clock starts: the sampler imports and fits its first model in them."""
COMPONENTS = ("forward", "harness", "build", "sampler", "storage", "loop")
"""The components of a trial. ``harness`` is the evaluators without the forward pass; ``loop`` is everything else."""


class Clock:
    """Charges time to the innermost component that is running."""

    def __init__(self) -> None:
        self.totals: dict[str, float] = defaultdict(float)
        self._stack = ["loop"]
        self._since = time.perf_counter()

    def charge(self) -> None:
        """Charges the time since the last call to the current component."""
        now = time.perf_counter()
        self.totals[self._stack[-1]] += now - self._since
        self._since = now

    def watch(self, component: str, owner: Any, *names: str) -> None:
        """Replaces these functions of ``owner`` by timed ones."""
        for name in names:
            setattr(owner, name, self._timed(component, getattr(owner, name)))

    def _timed(self, component: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self.charge()
            self._stack.append(component)
            try:
                return function(*args, **kwargs)
            finally:
                self.charge()
                self._stack.pop()

        return timed


def watch_components(clock: Clock, session: Session) -> None:
    """Times the entry points of each component."""
    study = session.store.study
    storage = study._storage  # Optuna has no public name for it.
    methods = [name for name in dir(storage) if not name.startswith("_") and callable(getattr(storage, name))]
    clock.watch("storage", storage, *methods)
    clock.watch("storage", RunFolder, "save_scores", "load_scores", "has_scores")
    clock.watch("sampler", study, "ask")
    clock.watch("sampler", Space, "ask")
    clock.watch("build", Engine, "build")
    for task in session.plan.problem.tasks:
        clock.watch("harness", task.evaluator, "score")
    clock.watch("forward", session.live.engine.model, "forward")


def measure(config: Path, trials: int) -> dict[str, float]:
    """Seconds per trial of each component: the mean over ``trials`` sampled trials after the warm-up."""
    plan = open_plan(Config.read(config), str(config))
    with tempfile.TemporaryDirectory() as results:
        folder = RunFolder(Path(results) / "run")
        folder.path.mkdir()
        session = Session(plan, RunStore(folder, folder.open_study(None)))
        while sum(t.kind_of(trial) == t.SAMPLED for trial in t.finished(session.store.study)) < WARM_UP_TRIALS:
            session.loop.run_trial()
        clock = Clock()
        watch_components(clock, session)
        for _ in range(trials):
            session.loop.run_trial()
        clock.charge()
    return {component: clock.totals[component] / trials for component in COMPONENTS}


@click.command()
@click.option("--config", type=click.Path(path_type=Path), default=Path("configs/demo.yml"), show_default=True)
@click.option("--trials", default=20, show_default=True, help="How many sampled trials to time.")
@click.option("--threads", type=int, help="Threads of torch [all cores].")
def main(config: Path, trials: int, threads: int | None) -> None:
    """Times the components of a trial."""
    if threads:
        torch.set_num_threads(threads)
    seconds = measure(config, trials)
    total = sum(seconds.values())
    table = Table("component", "ms per trial", "share", title=f"{trials} trials of {config}")
    for component, value in seconds.items():
        table.add_row(component, f"{1000 * value:.1f}", f"{value / total:.1%}")
    table.add_section()
    overhead = 1 - seconds["forward"] / total
    table.add_row("everything but the forward pass", f"{1000 * (total - seconds['forward']):.1f}", f"{overhead:.1%}")
    Console().print(table)
    write_result("trial_breakdown", {"trials": trials, "seconds_per_trial": seconds, "overhead": overhead})


if __name__ == "__main__":
    main()
