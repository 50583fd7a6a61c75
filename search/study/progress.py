"""How far a run is: a small file that a run keeps beside its study, so that others need not read the study itself."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

FILE = "progress.json"


@dataclass(frozen=True)
class Progress:
    """The run after a trial.

    Attributes:
        trials: How many are finished.
        of: How many the run will have.
        stopped: How many of them were stopped early.
        best: The name of the best candidate so far; empty where there is none.
        value: Its objective on the search items.
        seconds: The mean time of a trial of the worker that wrote this.
        updated: When this was written, in seconds since the epoch.
    """

    trials: int
    of: int
    stopped: int
    best: str
    value: float | None
    seconds: float
    updated: float


def read_progress(folder: Path) -> Progress | None:
    """The progress of the run in a folder; None where none is recorded, or it cannot be read."""
    try:
        return TypeAdapter(Progress).validate_json((folder / FILE).read_bytes())
    except (OSError, ValidationError):
        return None
