"""Runs a program of other people so that nothing of it is left: no process, no endless output, no wait for children."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

OUTPUT_BYTES = 16 * 2**20
"""How much of the end of a program's standard output is kept."""
ERROR_BYTES = 64 * 2**10
"""How much of the end of its standard error is kept."""
DRAINED = 0.2
"""Seconds in which output may still arrive that was written before the program ended."""
_POLLED = 0.02
_READ = 2**16
_GUARD = 'read -r _; rm -rf -- "$1"; kill -s KILL 0'
"""A shell's commands: wait until the pipe from this process ends, which it does when this process is killed; then
remove the folder and end the own process group, which is the program's."""


class ProgramTimeoutError(RuntimeError):
    """The program took too long, and was killed."""


@dataclass(frozen=True)
class EndedProgram:
    """How a program ended: its exit status, negative for a signal, and the ends of what it printed."""

    status: int
    output: str
    errors: str

    @property
    def in_words(self) -> str:
        """How it ended, as in ``ended with status 3`` or ``was killed by signal 9, Killed``."""
        if self.status >= 0:
            return f"ended with status {self.status}"
        name = signal.strsignal(-self.status) or "unknown"
        hint = ", perhaps for want of memory" if -self.status == signal.SIGKILL else ""
        return f"was ended by signal {-self.status}, {name.lower()}{hint}"


def run_program(arguments: Sequence[str], timeout: float, scratch: Path) -> EndedProgram:
    """Runs a program without input, in a process group of its own, until it ends.

    The processes that it started, and that are still in its group, end with it, whatever ends it: itself, the time
    limit, an exception here, or a kill of this process. In the last case the folder ``scratch`` is removed, too. A
    child that keeps a pipe open is not waited for.

    Raises:
        ProgramTimeoutError: It took longer than ``timeout`` seconds.
    """
    with _own_group(scratch) as group:
        process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=group
        )
        try:
            output, errors = _read(process, time.monotonic() + timeout)
        finally:
            status = _end(process, group)
    return EndedProgram(status, *(bytes(kept).decode("utf-8", errors="replace") for kept in (output, errors)))


def _read(process: subprocess.Popen[bytes], deadline: float) -> tuple[bytearray, bytearray]:
    """The ends of standard output and error."""
    assert process.stdout is not None
    assert process.stderr is not None
    output, errors = bytearray(), bytearray()
    kept = {process.stdout.fileno(): (output, OUTPUT_BYTES), process.stderr.fileno(): (errors, ERROR_BYTES)}
    with selectors.DefaultSelector() as selector:
        for pipe in kept:
            os.set_blocking(pipe, False)
            selector.register(pipe, selectors.EVENT_READ)
        _read_until_end(process, deadline, selector, kept)
    return output, errors


def _read_until_end(
    process: subprocess.Popen[bytes],
    deadline: float,
    selector: selectors.BaseSelector,
    kept: Mapping[int, tuple[bytearray, int]],
) -> None:
    ended: float | None = None
    while True:
        ready = _ready(selector, 0.0 if ended else _POLLED)
        for pipe in ready:
            if not _keep(pipe, *kept[pipe]):
                selector.unregister(pipe)
        now = time.monotonic()
        if ended and (not ready or now > ended + DRAINED):
            return  # what the program itself wrote was in the pipes by the time at which it ended
        if not ended and now > deadline:
            raise ProgramTimeoutError
        if not ended and process.poll() is not None:
            ended = now


def _ready(selector: selectors.BaseSelector, seconds: float) -> list[int]:
    """The pipes that can be read, or are at their end; waits so long for one."""
    if not selector.get_map():
        time.sleep(seconds)
        return []
    return [key.fd for key, _ in selector.select(seconds)]


def _keep(pipe: int, kept: bytearray, most: int) -> bool:
    """Reads what there is and keeps the end of it; False at the end of the pipe."""
    try:
        chunk = os.read(pipe, _READ)
    except BlockingIOError:
        return True
    kept += chunk
    if len(kept) > 2 * most:
        del kept[:-most]
    return bool(chunk)


def _end(process: subprocess.Popen[bytes], group: int | None) -> int:
    """Kills what is left of the program and of its group; the program's exit status."""
    if group is None:
        process.kill()
    else:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    return process.wait()


@contextmanager
def _own_group(scratch: Path) -> Iterator[int | None]:
    """A process group for a program, led by a shell that ends the group and removes the folder if this process dies.

    None where there are no process groups.
    """
    if sys.platform == "win32":
        yield None
        return
    command, none = ["/bin/sh", "-c", _GUARD, "sh", str(scratch)], subprocess.DEVNULL
    guard = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=none, stderr=none, process_group=0)
    try:
        yield guard.pid
    finally:
        guard.kill()
        guard.wait()
        assert guard.stdin is not None
        guard.stdin.close()
