"""Where the time of a trial is spent: build, forward pass, harness, ask, tell, files; and what could not be saved.

    python benchmarks/trial_breakdown.py [--beds demo,125M] [--trials N] [--threads N]

The demo's search without its descent, and one of a random Llama of 125 million parameters, on fewer items of the same
tasks, with as many fine-tunes and dimensions of the same kinds. The first ten sampled trials are not timed. The floor
of building is that of memory: each input read once, the result written once, at the bandwidth of the fastest copy. The
floor of scoring is the forward pass; evaluation_speed.py says how near that is to the least. All else of a trial should
stay under 10 ms. Requires the demo's checkpoints, which ``mergesearch demo`` creates. Prints a table and writes
results/benchmarks/trial_breakdown.json.
"""

import functools
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from llama_checkpoints import make_checkpoints
from machine import write_result
from memory_copies import Copies
from rich.console import Console
from rich.table import Table

from mergesearch.search.candidates.plan import open_plan
from mergesearch.search.config import Config, read_sections
from mergesearch.search.session import Session
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_folder import RunFolder
from mergesearch.search.study.run_store import RunStore

WARM_UP_TRIALS = 10
"""Sampled trials before the clock starts: the sampler imports and fits its first model in them."""
PARTS = ("build", "forward", "harness", "ask", "plan", "tell", "files", "loop")
"""The parts of a trial. ``harness``: the evaluators without the forward pass; ``ask``: the sampler and the recipe;
``plan``: that of the race; ``files``: the study's storage and the files of scores; ``loop``: everything else."""
SCORED = ("build", "forward", "harness")
DEMO = Path("configs/demo.yml")
FEW = 40
"""Lines of each task for the large model."""
AIM = 10.0
"""Milliseconds of a trial beside building and scoring."""


class Clock:
    """Charges time to the innermost part that is running."""

    def __init__(self) -> None:
        self.totals: dict[str, float] = defaultdict(float)
        self._stack = ["loop"]
        self._since = time.perf_counter()

    def charge(self) -> None:
        """Charges the time since the last call to the current part."""
        now = time.perf_counter()
        self.totals[self._stack[-1]] += now - self._since
        self._since = now

    def watch(self, part: str, owner: Any, *names: str) -> None:
        """Replaces these functions of ``owner`` by timed ones."""
        for name in names:
            setattr(owner, name, self._timed(part, getattr(owner, name)))

    def _timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self.charge()
            self._stack.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.charge()
                self._stack.pop()

        return timed


def watch_parts(clock: Clock, session: Session) -> None:
    """Times the entry points of each part of this session."""
    study, loop = session.store.study, session.loop
    storage = study._storage  # Optuna has no public name for it.
    methods = [name for name in dir(storage) if not name.startswith("_") and callable(getattr(storage, name))]
    clock.watch("files", storage, *methods)
    clock.watch("files", session.store.folder, "save_scores", "load_scores", "has_scores")
    clock.watch("ask", loop._asker, "ask")
    clock.watch("ask", loop._space, "ask")
    clock.watch("ask", loop._drawing, "recipe")
    clock.watch("plan", loop._scorer, "plan_race")
    clock.watch("tell", loop, "_tell")
    clock.watch("build", session.live.engine, "build", "phenotype")
    for task in session.plan.problem.tasks:
        clock.watch("harness", task.evaluator, "score", "score_with_margins")
    clock.watch("forward", session.live.engine.model, "forward")


def demo(_: Path) -> dict[str, Any]:
    """The demo's config."""
    data: dict[str, Any] = read_sections(DEMO)
    return data


def large(folder: Path) -> dict[str, Any]:
    """The demo's config with other checkpoints and fewer items."""
    data = fewer_items(demo(folder), folder / "tasks")
    recipe = data["recipe"]
    base, *fine_tunes = make_checkpoints(folder, "125M", len(recipe["models"]), torch.float32)
    for path in (base, *fine_tunes):
        for file in Path(recipe["base_model"]).glob("tokenizer*"):
            shutil.copy(file, path)
    for entry, path in zip(recipe["models"], fine_tunes, strict=True):
        entry["model"] = path
    recipe["base_model"] = base
    return data


def fewer_items(data: dict[str, Any], tasks: Path) -> dict[str, Any]:
    """The config with tasks of few items, which are written to a new folder."""
    whole = data["evaluate"]["include_path"]
    shutil.copytree(whole, tasks)
    for file in tasks.glob("*.jsonl"):
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:FEW]))
    for file in tasks.glob("*.yaml"):
        file.write_text(file.read_text().replace(whole, str(tasks)))
    data["evaluate"]["include_path"] = str(tasks)
    return data


BEDS: dict[str, Callable[[Path], dict[str, Any]]] = {"demo": demo, "125M": large}


def measure(bed: str, trials: int) -> dict[str, Any]:
    """Seconds per trial of each part: the mean over ``trials`` sampled trials; and the floor of building."""
    with tempfile.TemporaryDirectory() as scratch:
        data = BEDS[bed](Path(scratch))
        data["search"] = {"trials": 10 * trials, "seed": 0, "start": "none"}
        session = _session(data, Path(scratch) / "run")
        while sum(t.kind_of(trial) == t.SAMPLED for trial in t.finished(session.store.study)) < WARM_UP_TRIALS:
            session.loop.run_trial()
        copies = Copies(session.live.engine.views)
        moved = (len(data["recipe"]["models"]) + 2) * copies.bytes
        clock = Clock()
        watch_parts(clock, session)
        for _ in range(trials):
            session.loop.run_trial()
        clock.charge()
        return {
            "seconds": {part: clock.totals[part] / trials for part in PARTS},
            "build floor": moved / copies.bandwidth(),
            "dimensions": len(session.plan.problem.space.dimensions),
            "items": session.plan.problem.tasks.search_items,
        }


def _session(data: dict[str, Any], folder: Path) -> Session:
    folder.mkdir()
    run_folder = RunFolder(folder)
    plan = open_plan(Config.model_validate(data), "config")
    return Session(plan, RunStore(run_folder, run_folder.open_study(None), plan.problem.tasks.items("search")))


def table_of(found: dict[str, dict[str, Any]], trials: int) -> Table:
    """Milliseconds of each part, and what is beside building and scoring."""
    table = Table("part", *(f"{bed}, ms" for bed in found), "floor or aim, ms", title=f"{trials} trials each")
    floors = {
        "build": " / ".join(f"{1000 * one['build floor']:.1f}" for one in found.values()),
        "forward": "itself",
        "harness": "0",
    }
    for part in PARTS:
        table.add_row(part, *(f"{1000 * one['seconds'][part]:.1f}" for one in found.values()), floors.get(part, ""))
    table.add_section()
    table.add_row("beside build and score", *(f"{beside(one):.1f}" for one in found.values()), f"{AIM:.0f}")
    return table


def beside(found: dict[str, Any]) -> float:
    """Milliseconds of a trial beside building and scoring."""
    return 1000.0 * sum(float(seconds) for part, seconds in found["seconds"].items() if part not in SCORED)


@click.command()
@click.option("--beds", default=",".join(BEDS), show_default=True)
@click.option("--trials", default=20, show_default=True, help="How many sampled trials to time.")
@click.option("--threads", type=int, help="Threads of torch [all cores].")
def main(beds: str, trials: int, threads: int | None) -> None:
    """Times the parts of a trial."""
    if threads:
        torch.set_num_threads(threads)
    found = {bed: measure(bed, trials) for bed in beds.split(",")}
    Console().print(table_of(found, trials))
    write_result("trial_breakdown", {"trials": trials, "beds": found})


if __name__ == "__main__":
    main()
