"""Attempts at candidates: what a process leaves that ends while it builds or scores one.

While a candidate is built and scored, there is a file for it. The file of a process that ended meanwhile stays, and
says how the process ended, as far as that leaves a trace: the signal of a crash and where, ``os._exit`` and where, a
time limit, or that the kernel killed a process for want of memory. So a candidate that ends processes is not tried for
ever.
"""

import faulthandler
import json
import os
import re
import sys
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from unittest import mock

from mergesearch.errors import innermost
from mergesearch.search.study.workers import Workers

TRIES = 2
"""How often a candidate is tried that ends its process."""
EXITED, TIMED_OUT = "exited: ", "timed out: "
"""The beginnings of the lines that a process writes of itself."""
_OOM_COUNTERS = (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat"))
_SILENT = "probably by signal 9, out of memory: it left no trace"
_SIGNALS = {
    "Segmentation fault": 11,
    "Aborted": 6,
    "Bus error": 7,
    "Floating-point exception": 8,
    "Floating point exception": 8,
    "Illegal instruction": 4,
}
"""The numbers of the signals that Python's fault handler names."""

leave = os._exit
"""Ends the process at once."""


class CandidateRefusedError(RuntimeError):
    """The candidate has ended processes and is not tried again."""


@dataclass(frozen=True)
class Ended:
    """The end of a process while it was at a candidate: when it began that, and how it ended.

    ``is_traced``: the end left a trace, and so was not brought about from outside. ``is_final``: it would take as long
    the next time.
    """

    began: float
    how: str
    is_traced: bool
    is_final: bool
    file: Path


class Attempts:
    """The attempts at a run's candidates, in a folder. ``worker`` is this process's name among the ``workers``.

    ``share`` is told of each file that is there or gone; see ``RunFolder.share``.
    """

    def __init__(
        self, folder: Path, workers: Workers, worker: str, share: Callable[[Path], None] = lambda _: None
    ) -> None:
        self._folder, self._workers, self._worker, self._share = folder, workers, worker, share
        self._opened = workers.now()

    @contextmanager
    def noted(self, candidate: str) -> Iterator[IO[str]]:
        """Around building and scoring a candidate, whose digest is given; gives the file of this attempt.

        Raises CandidateRefusedError where the candidate ended two processes; and where it ended one in whose time this
        process was running, too, so that it does not end all workers one after the other.
        """
        earlier = self._checked(candidate)
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._folder / f"{candidate[:32]}.{uuid.uuid4().hex[:12]}"
        try:
            with file.open("w", encoding="utf-8") as log, ExitStack() as stack:
                head = {"worker": self._worker, "began": self._workers.now(), "killed": _killed_for_memory()}
                log.write(json.dumps(head) + "\n")
                log.flush()
                self._share(file)
                stack.enter_context(_crashes_to(log))
                stack.enter_context(_exits_to(log))
                yield log
            for end in earlier:  # the candidate was not to blame
                end.file.unlink(missing_ok=True)
                self._share(end.file)
        finally:
            file.unlink(missing_ok=True)
            self._share(file)

    def _checked(self, candidate: str) -> list[Ended]:
        """The ends at the candidate, where it may be tried again all the same."""
        ends = self._ends(candidate)
        in_our_time = [end for end in ends if end.is_final or (end.is_traced and end.began > self._opened)]
        if len(ends) >= TRIES or in_our_time:
            times = {1: "", 2: ", twice"}.get(len(ends), f", {len(ends)} times")
            raise CandidateRefusedError(
                f"the process ended while it scored this candidate{times}, {ends[-1].how}; "
                f"to try it again, remove {self._folder}"
            )
        return ends

    def _ends(self, candidate: str) -> list[Ended]:
        """The ends of earlier processes at the candidate, in their order."""
        found = [self._end(file) for file in self._folder.glob(f"{candidate[:32]}.*")]
        return sorted((end for end in found if end), key=lambda end: end.began)

    def _end(self, file: Path) -> Ended | None:
        """None where the process is still at it."""
        try:
            head, _, trace = file.read_text(encoding="utf-8", errors="replace").partition("\n")
            said = json.loads(head)
            worker, began, killed = str(said["worker"]), float(said["began"]), said["killed"]
        except (OSError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError):
            return None
        if worker == self._worker or self._workers.is_living(worker):
            return None
        how = _told(trace) or _killed_in_words(killed)
        is_final = trace.startswith((TIMED_OUT, "Timeout ("))
        return Ended(began, how or _SILENT, bool(how), is_final, file)


def _told(trace: str) -> str:
    """How the process ended, from what it wrote at its end; empty where it wrote nothing."""
    for word in (EXITED, TIMED_OUT):
        if trace.startswith(word):
            return trace.partition("\n")[0].removeprefix(word)
    if re.search(r"^Timeout \(", trace, re.MULTILINE):
        return f"by its time limit{_innermost(trace)}"
    crash = re.search(r"Fatal Python error: (.+)", trace)
    if crash is None:
        return ""
    number = _SIGNALS.get(crash[1])
    return f"by {f'signal {number}, ' if number else ''}{crash[1].lower()}{_innermost(trace)}"


def _innermost(trace: str) -> str:
    places = re.findall(r'most recent call first\):\s+File "(.+)", line (\d+)', trace)
    return f" in {places[-1][0]}, line {places[-1][1]}" if places else ""  # the main thread's, which is the last


def _killed_in_words(before: Any) -> str:
    now = _killed_for_memory()
    is_more = isinstance(before, int) and now is not None and now > before
    return "by signal 9, out of memory: the kernel killed it" if is_more else ""


def _killed_for_memory() -> int | None:
    """How many processes the kernel has killed for want of memory; None where it does not say."""
    for counter in _OOM_COUNTERS:
        with suppress(OSError):
            if found := re.search(r"^oom_kill (\d+)$", counter.read_text(encoding="ascii"), re.MULTILINE):
                return int(found[1])
    return None


@contextmanager
def _crashes_to(log: IO[str]) -> Iterator[None]:
    """Lets the signal of a crash be written to the log; not where a handler is there already."""
    if faulthandler.is_enabled():
        yield
        return
    faulthandler.enable(log, all_threads=False)
    try:
        yield
    finally:
        faulthandler.disable()


@contextmanager
def _exits_to(log: IO[str]) -> Iterator[None]:
    """Lets ``os._exit`` in this process write to the log and to standard error, and never end with status 0."""
    process = os.getpid()

    def noted(status: int) -> None:
        if os.getpid() == process:
            say_end(log, EXITED, f"by os._exit({status}), which was called {innermost(traceback.extract_stack()[:-1])}")
            status = status or 1
        leave(status)

    with mock.patch.object(os, "_exit", noted):
        yield


def say_end(log: IO[str], kind: str, why: str) -> None:
    """Writes why the process is about to end to the log, and for the user to standard error."""
    log.write(f"{kind}{why}\n")
    log.flush()
    sys.stderr.write(
        f"\nerror: the process ends while it scores a candidate, {why}; the same command resumes the run\n"
    )
    sys.stderr.flush()
