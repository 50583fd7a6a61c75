"""What a trial costs beside building and scoring its candidate, after 100, 1,000 and 3,000 trials.

    python benchmarks/trial_overhead.py [--trials N] [--sampler NAME]...

Candidates are neither built nor scored: each gets scores that follow from its recipe. Everything else is a run's: the
sampler, the journal, the files of scores, the lock, the search for identical candidates, and the report at the end.
Prints a table and writes results/benchmarks/trial_overhead.json.
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import click
import torch
from llama_checkpoints import make_checkpoints
from machine import write_result
from rich.console import Console
from rich.table import Table

from mergesearch.evaluators import Item
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.candidates.plan import open_plan
from mergesearch.search.config import Config
from mergesearch.search.report.html import write_report
from mergesearch.search.session import Session
from mergesearch.search.study.run_folder import RunFolder
from mergesearch.search.study.run_store import RunStore
from mergesearch.search.verdict.judge import Judge

WINDOW = 50
"""The trials before each count, over which the time is averaged."""
COUNTS = (100, 1000, 3000)
TEXTS = 40


def make_config(folder: Path, trials: int, sampler: str) -> dict[str, Any]:
    """The config of a search over six dimensions of TIES, on short texts."""
    base, *models = make_checkpoints(folder / "models", "small", 2, torch.float32)
    (folder / "texts").mkdir()
    for number in range(TEXTS):
        (folder / "texts" / f"{number:02}.txt").write_text(f"text {number}\n")
    parameters = {"weight": {"search": [0.0, 1.5], "curve": 2}, "density": {"search": [0.1, 1.0]}}
    return {
        "recipe": {
            "merge_method": "ties",
            "base_model": base,
            "models": [{"model": model, "parameters": parameters} for model in models],
        },
        "evaluate": {
            "tasks": [{"evaluator": "bits_per_byte", "task": "text", "files": [str(folder / "texts" / "*.txt")]}],
            "split": {"search": 0.5, "test": 0.5, "seed": 0},
        },
        "search": {"trials": trials, "sampler": sampler, "seed": 0, "racing": False, "start": "none"},
        "output": {"name": "overhead", "model": False},
    }


def stub(session: Session) -> None:
    """Makes building free, and scoring a draw whose seed is the recipe's."""
    built = {"seed": 0}

    def build(recipe: Recipe) -> None:
        built["seed"] = crc32(recipe.to_yaml().encode())

    def score(_subject: object, items: Sequence[Item]) -> torch.Tensor:
        return torch.rand(len(items), generator=torch.Generator().manual_seed(built["seed"]), dtype=torch.float64)

    session.live.engine.build = build  # type: ignore[assignment,method-assign]
    for task in session.plan.problem.tasks:
        task.evaluator.score = score  # type: ignore[method-assign,assignment]


def measure(trials: int, sampler: str) -> dict[str, float]:
    """Milliseconds of a trial by the number of trials, and the seconds of the report."""
    with tempfile.TemporaryDirectory() as name:
        config = make_config(Path(name), trials, sampler)
        plan = open_plan(Config.model_validate(config), "config")
        folder = RunFolder(Path(name) / "overhead")
        folder.path.mkdir()
        session = Session(plan, RunStore(folder, folder.open_study(None), plan.problem.tasks.items("search")))
        stub(session)
        ended = []
        for _ in range(trials):
            session.loop.run_trial()
            ended.append(time.perf_counter())
        found = {
            str(count): 1000 * (ended[count - 1] - ended[count - 1 - WINDOW]) / WINDOW
            for count in COUNTS
            if count <= trials
        }
        verdict = Judge(plan.problem.tasks, session.store, session.scorer, session.signal, {}, 0).judge(0)
        begin = time.perf_counter()
        write_report(session.store, verdict)
        return {**found, "report": time.perf_counter() - begin}


@click.command()
@click.option("--trials", default=max(COUNTS), show_default=True, help="How many trials a run has.")
@click.option("--sampler", "samplers", multiple=True, default=["random", "qmc", "cmaes", "tpe"], show_default=True)
def main(trials: int, samplers: Sequence[str]) -> None:
    """Times what trials cost beside their candidates."""
    found = {sampler: measure(trials, sampler) for sampler in samplers}
    table = Table(
        "sampler", *(f"{count:,} trials" for count in COUNTS), "report", title="ms of a trial; s of the report"
    )
    for sampler, times in found.items():
        cells = [f"{times[str(count)]:.1f}" if str(count) in times else "" for count in COUNTS]
        table.add_row(sampler, *cells, f"{times['report']:.1f}")
    Console().print(table)
    write_result("trial_overhead", {"trials": trials, "milliseconds_per_trial_and_report_seconds": found})


if __name__ == "__main__":
    main()
