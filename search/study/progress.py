"""How far a run is: small files that it keeps beside its study, so that others need not read the study itself.

``progress.json`` says how far the run is after a trial. ``now/WORKER`` says what a worker does now. What they say is
lost without harm, so they are not flushed to the disk.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from mergesearch.search.study.workers import Workers

FILE = "progress.json"
NOW = "now"
Content = TypeVar("Content")
STEPS = {60: 600, 10: 60, 1: 0}
"""Seconds that a time left is rounded to, and from how many on: it is an estimate."""


@dataclass(frozen=True)
class Progress:
    """The run after a trial.

    Attributes:
        trials: How many are finished.
        of: How many the run will have.
        stopped: How many of them were stopped early.
        best: The name of the best candidate so far; empty where there is none.
        value: Its objective on the search items.
        updated: When this was written, in seconds since the epoch.
        rate: Trials an hour, by the last ones; None where that is not known.
    """

    trials: int
    of: int
    stopped: int
    best: str
    value: float | None
    updated: float
    rate: float | None = None


@dataclass(frozen=True)
class Doing:
    """What a worker does at a time.

    Attributes:
        worker: Its name, see ``Workers``.
        what: In words, such as ``trial 12: scoring``.
        done: How much of that is done; None where that is not known.
        of: Of how much.
        unit: In which units, such as ``items``.
        trials: How many trials of the run were finished when it last looked.
        left: About how many seconds the run takes from then on; None where that is not known yet.
        at_most: Whether the run may end earlier than after its trials.
        at: The time, in seconds since the epoch.
    """

    worker: str
    what: str
    done: float | None = None
    of: int = 0
    unit: str = ""
    trials: int = 0
    left: float | None = None
    at_most: bool = False
    at: float = 0.0

    @property
    def in_words(self) -> str:
        """``trial 12: scoring, 312/1,280 items``."""
        if self.done is None:
            return self.what
        return f"{self.what}, {min(int(self.done), self.of):,}/{self.of:,} {self.unit}"


def left_in_words(doing: Sequence[Doing]) -> str:
    """``about 0:13:00 left``, as the worker says that knows of most trials; empty where that is not known."""
    known = [each for each in doing if each.left is not None]
    last = max(known, key=lambda each: (each.trials, each.at), default=None)
    if last is None or last.left is None:
        return ""
    seconds = max(0.0, last.left - (time.time() - last.at))
    step = next(step for step, least in STEPS.items() if seconds >= least)
    return f"{'at most' if last.at_most else 'about'} {timedelta(seconds=step * round(seconds / step))} left"


def read_progress(folder: Path) -> Progress | None:
    """The progress of the run in a folder; None where none is recorded, or it cannot be read."""
    return _read(folder / FILE, Progress)


def workers_in(folder: Path, besides: str = "") -> list[Doing]:
    """The living workers of the run in a folder ``besides`` this one, and what each does."""
    names = [name for name in Workers(folder / "workers").seen() if name != besides]
    return [_read(folder / NOW / name, Doing) or Doing(name, "working") for name in names]


def _read(file: Path, kind: type[Content]) -> Content | None:
    try:
        return TypeAdapter(kind).validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return None
