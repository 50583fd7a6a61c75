"""What a worker and the coordinator of its run say to each other, where the two share no file system.

The coordinator has the run's folder, and answers each call at once: nothing waits in it. Every call names its worker.
A worker that the coordinator takes for dead is refused from then on (``LostError``), so that whatever it had begun
cannot mix with what others do since.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Protocol

from mergesearch.errors import UserError

SILENCE = "MERGESEARCH_SILENCE"
"""The variable with the seconds without a sign of life after which a worker is taken for dead: see ``silence``."""
BEATS = 30
"""How many signs of life a worker gives in that time."""
CHUNK = 1 << 22
"""The most bytes of a file in one message."""
ENTRIES = 4_000
"""The most entries of a journal in one message."""
LOG = "run.log"
"""The run's log, of which workers pass on what they add."""
LOCAL = {"workers", "now", "study.log", "study.lock", LOG, "lock", "stop.json", "exchange.json"}
"""Names at the top of a run's folder that are not passed on with its files."""
Entry = dict[str, Any]
"""An entry of the study's journal."""


def silence() -> float:
    """Seconds without a sign of life after which a worker is taken for dead. Raises UserError."""
    text = os.environ.get(SILENCE) or "60"
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UserError(f"{SILENCE}: found {text!r}, expected a number of seconds")
    return seconds


class ArtifactError(RuntimeError):
    """The store of a run's files fails."""


class LostError(RuntimeError):
    """The worker of this name is not known any more: it was silent for long, or lost the lock while it had it."""

    def __str__(self) -> str:
        return f"{self.args[0]}: was silent for more than {silence():.0f} s, and others have taken its trial"


def check_name(name: str) -> None:
    """Raises ValueError for what is no name of a file in a run's folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"{name}: is no file of a run")


@dataclass(frozen=True)
class Pulse:
    """What a worker is told at a sign of life: the time by the coordinator's clock, and what it is asked to do."""

    now: float
    is_stopping: bool
    is_ending: bool


@dataclass(frozen=True)
class Part:
    """Bytes of a file, which has ``size`` bytes in all. The ``version`` changes with the file."""

    version: str
    size: int
    data: bytes


@dataclass(frozen=True)
class Changes:
    """The versions of the files that have changed since an earlier ``mark``; None for those that are gone.

    ``is_whole``: these are all files that there are, because the mark was not known.
    """

    mark: str
    versions: Mapping[str, str | None]
    is_whole: bool


class Exchange(Protocol):
    """The coordinator as a worker sees it. Names of files are relative to the run's folder, with ``/``."""

    def join(self, worker: str, member: str) -> bool:
        """Makes it a worker; False where it has to ask again. ``member``: how whoever started it calls it."""

    def leave(self, worker: str, log: bytes) -> None:
        """The worker has ended; ``log`` is what it logged since the last sign of life."""

    def beat(self, worker: str, log: bytes) -> Pulse:
        """A sign of life."""

    def take(self, worker: str) -> str | None:
        """Takes the run's lock; gives who has it where it is another's. The worker that has it may ask again."""

    def release(self, worker: str) -> None:
        """Lets go of the run's lock."""

    def claim(self, worker: str, name: str) -> bool:
        """Whether this worker may do what one does at a time, until it ends."""

    def living(self, worker: str) -> list[str]:
        """The names of the living workers."""

    def is_dead(self, worker: str, name: str) -> bool:
        """Whether the worker of this name has ended for certain."""

    def changes(self, worker: str, mark: str) -> Changes:
        """The files that have changed since the mark of an earlier answer, which is empty at first."""

    def fetch(self, worker: str, name: str, offset: int, size: int) -> Part | None:
        """So many bytes of a file; None where there is no file."""

    def put(self, worker: str, name: str, offset: int, data: bytes) -> None:
        """Puts bytes aside, for a file that ``commit`` puts in place."""

    def commit(self, worker: str, name: str, durable: bool) -> dict[str, str]:
        """Puts a file, or a folder as a whole, in place of what is there. Gives the version of each file."""

    def remove(self, worker: str, name: str) -> None:
        """Removes a file or a folder."""


class JournalExchange(Exchange, Protocol):
    """An ``Exchange`` that has the study, too: its journal."""

    def entries(self, worker: str, begin: int) -> Sequence[Entry]:
        """The next entries of the study's journal from a number on; none where there are no more."""

    def append(self, worker: str, entries: Sequence[Entry], request: str, begin: int) -> Sequence[Entry]:
        """Appends entries once for each ``request``, and answers as ``entries`` does."""
