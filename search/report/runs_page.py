"""``mergesearch list``, ``status`` and ``show``: what run folders say, read without a model, a study or a task."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console

from mergesearch.errors import UserError, nearest
from mergesearch.search.report.screen import print_table
from mergesearch.search.report.verdict_page import print_verdict
from mergesearch.search.study.progress import FILE, Doing, Progress, left_in_words, read_progress, workers_in
from mergesearch.search.verdict.formatting import interval
from mergesearch.search.verdict.result import VERDICT, Verdict

CONFIG = "config.yml"
"""By which a run's folder is known."""
HANDED_OVER = ("recommended.yml", "model", "best.yml", "front", "report.html", "run.log")
"""What a run leaves for its user."""


@dataclass(frozen=True)
class RunState:
    """A run, as its folder shows it."""

    folder: Path

    @cached_property
    def verdict(self) -> Verdict | None:
        """The verdict; None where there is none, or it cannot be read."""
        try:
            content = json.loads((self.folder / VERDICT).read_bytes())
            return Verdict.from_json({key: value for key, value in content.items() if key != "sum"})
        except (OSError, ValueError, AttributeError, ValidationError):
            return None

    @cached_property
    def progress(self) -> Progress | None:
        """How far the search is."""
        return read_progress(self.folder)

    @cached_property
    def workers(self) -> list[Doing]:
        """The processes that work on the run now, and what each does."""
        return workers_in(self.folder)

    @property
    def state(self) -> str:
        """running, finished, or stopped: neither, as a run that was interrupted after its verdict."""
        if self.workers:
            return "running"
        if self.verdict is None or (self.progress and self.progress.trials > self.verdict.trials):
            return "stopped"
        return "finished"

    @property
    def trials(self) -> str:
        """``12/60``, or of a finished run the number."""
        if self.progress and not (self.verdict and self.state == "finished"):
            done = max([self.progress.trials, *(each.trials for each in self.workers)])
            return f"{done}/{self.progress.of}"
        return str(self.verdict.trials) if self.verdict else ""

    @property
    def outcome(self) -> str:
        """What is recommended, or the best so far, with its objective."""
        if self.verdict and self.state == "finished":
            row = self.verdict.recommended_row
            return f"{self.verdict.recommended}: {interval(row.test)} on test items"
        if self.progress and self.progress.value is not None:
            return f"best so far {self.progress.best}: {self.progress.value:.3f} on search items"
        return ""

    @property
    def updated(self) -> datetime:
        """When it was last heard of."""
        files = [self.folder / name for name in (VERDICT, FILE, CONFIG)]
        return datetime.fromtimestamp(max(file.stat().st_mtime for file in files if file.exists()))

    @property
    def left(self) -> str:
        """How long the run takes from now on, in words; empty where that is not known."""
        return left_in_words(self.workers)

    @property
    def rate(self) -> str:
        """How many trials it finishes in an hour, by the last ones; empty where that is not known."""
        rate = self.progress.rate if self.workers and self.progress else None
        return "" if rate is None else f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"


def runs_in(results: Path) -> list[RunState]:
    """The runs in a folder, the last one first."""
    folders = [path for path in results.iterdir() if (path / CONFIG).is_file()] if results.is_dir() else []
    return sorted(map(RunState, folders), key=lambda run: run.updated, reverse=True)


def find_run(name: str, results: Path) -> RunState:
    """The run of that name among the results, or in the folder of that path. Raises UserError."""
    for folder in (results / name, Path(name)):
        if (folder / CONFIG).is_file():
            return RunState(folder)
    raise UserError(
        f"{results}: there is no run {name!r}{nearest(name, (run.folder.name for run in runs_in(results)))}"
    )


def print_runs(screen: Console, runs: Sequence[RunState], results: Path) -> None:
    """A table with a line for each run."""
    if not runs:
        screen.print(f"{results}: no runs")
        return
    rows = [[run.folder.name, run.state, run.trials, f"{run.updated:%Y-%m-%d %H:%M}", run.outcome] for run in runs]
    print_table(screen, f"runs in {results}", ("run", "state", "trials", "last change", "outcome"), rows)


def print_status(screen: Console, runs: Sequence[RunState]) -> None:
    """How far the runs are that are worked on, or that stopped before their end."""
    rows = [
        [
            run.folder.name,
            run.state,
            run.trials,
            run.rate,
            run.left,
            f"{run.updated:%Y-%m-%d %H:%M}",
            str(len(run.workers)),
            run.outcome,
        ]
        for run in runs
    ]
    if not rows:
        screen.print("every run has finished")
        return
    print_table(
        screen, "", ("run", "state", "trials", "an hour", "time left", "last change", "workers", "outcome"), rows
    )
    for run in runs:
        _print_workers(screen, run)


def _print_workers(screen: Console, run: RunState) -> None:
    for worker in run.workers:
        screen.print(f"{run.folder.name}, worker {worker.worker}: {worker.in_words}")


def print_run(screen: Console, run: RunState) -> None:
    """All that is known of a run: its verdict, or how far it is; and its files."""
    screen.print(f"{run.folder}: {run.state}, {run.trials or 'no'} trials, last change {run.updated:%Y-%m-%d %H:%M}")
    _print_workers(screen, run)
    if run.verdict and run.state == "finished":
        print_verdict(screen, run.verdict)
    elif run.outcome:
        screen.print(run.outcome)
        screen.print(f"{run.progress.stopped if run.progress else 0} trials were stopped early")
    if run.rate:
        screen.print(f"{run.rate} trials an hour")
    if run.left:
        screen.print(run.left)
    if run.state == "stopped":
        screen.print("its config, run again, goes on with it")
    for name in HANDED_OVER:
        if (run.folder / name).exists():
            screen.print(str(run.folder / name))
