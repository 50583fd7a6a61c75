"""Where a trial's time goes on the demo: build, forward, harness, sampler, storage.

    python benchmarks/trial_breakdown.py [--trials N] [--threads N]

Needs the demo's checkpoints (``mergesearch demo`` makes them). Prints a table and writes
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
from mergesearch.search.config import Config
from mergesearch.search.optimize.loop import Loop
from mergesearch.search.problem.problem import Job, open_job
from mergesearch.search.run import open_engine
from mergesearch.search.scoring.scorer import Scoring
from mergesearch.search.space.space import Space
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_folder import RunFolder

WARM = 10
"""Trials of the sampler that are not timed: with its first model it loads what it needs."""
PARTS = ("forward", "harness", "build", "sampler", "storage", "loop")


class Clock:
    """Charges every moment to the innermost part that is running."""

    def __init__(self) -> None:
        self.totals: dict[str, float] = defaultdict(float)
        self._stack = ["loop"]
        self._since = time.perf_counter()

    def switch(self) -> None:
        now = time.perf_counter()
        self.totals[self._stack[-1]] += now - self._since
        self._since = now

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.switch()
            self._stack.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.switch()
                self._stack.pop()

        return wrapped

    def watch(self, part: str, owner: Any, *names: str) -> None:
        for name in names:
            setattr(owner, name, self.timed(part, getattr(owner, name)))


def watch_everything(clock: Clock, loop: Loop) -> None:
    """Puts the clock around each part's entry points."""
    storage = loop.study._storage
    methods = [name for name in dir(storage) if not name.startswith("_") and callable(getattr(storage, name))]
    clock.watch("storage", storage, *methods)
    clock.watch("storage", RunFolder, "save_scores", "load_scores", "has_scores")
    clock.watch("sampler", loop.study, "ask")
    clock.watch("sampler", Space, "ask")
    clock.watch("build", Engine, "build")
    clock.watch("harness", Job, "score")
    clock.watch("harness", Scoring, "_score_items")
    clock.watch("forward", loop.engine.model, "forward")


def measure(config: Path, trials: int) -> dict[str, float]:
    """Seconds per trial and part, over that many trials of the sampler, after those that come first."""
    job = open_job(Config.read(config), str(config))
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder) / "run")
        run.path.mkdir()
        loop = Loop(job, run, run.open_study(None), open_engine(job))
        while sum(t.kind_of(trial) == t.SAMPLED for trial in t.finished(loop.study)) < WARM:
            loop.run_trial()
        clock = Clock()
        watch_everything(clock, loop)
        for _ in range(trials):
            loop.run_trial()
        clock.switch()
    return {part: clock.totals[part] / trials for part in PARTS}


@click.command()
@click.option("--config", type=click.Path(path_type=Path), default=Path("configs/demo.yml"), show_default=True)
@click.option("--trials", default=20, show_default=True, help="How many sampled trials to time.")
@click.option("--threads", type=int, help="Threads of torch [all cores].")
def main(config: Path, trials: int, threads: int | None) -> None:
    """Times the parts of a trial."""
    if threads:
        torch.set_num_threads(threads)
    seconds = measure(config, trials)
    total = sum(seconds.values())
    table = Table("part", "ms per trial", "share", title=f"{trials} trials of {config}")
    for part, value in seconds.items():
        table.add_row(part, f"{1000 * value:.1f}", f"{value / total:.1%}")
    table.add_section()
    overhead = 1 - seconds["forward"] / total
    table.add_row("all but the forward", f"{1000 * (total - seconds['forward']):.1f}", f"{overhead:.1%}")
    Console().print(table)
    write_result("trial_breakdown", {"trials": trials, "seconds_per_trial": seconds, "overhead": overhead})


if __name__ == "__main__":
    main()
