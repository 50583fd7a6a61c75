"""Locks between processes: each is a file that one holder at a time has locked.

``MERGESEARCH_LOCK`` chooses the kind, and must be the same in every process of a run:

* ``auto``, the default: a lock of the operating system, which ends with the process, however the process ends. This is
  ``flock`` on Linux and macOS and ``LockFileEx`` on Windows. Linux passes ``flock`` on to the server of an NFS file
  system, and Lustre does so where it is mounted with ``flock``. Other network file systems may keep ``flock`` local to
  a host, GPFS among them: use ``soft`` when workers on several such hosts share a run. A file system without ``flock``
  gets the existence locks of ``filelock``, with a warning.
* ``soft``: a file that exists while the lock is held. It needs nothing but exclusive creation of files. The holder
  renews it from a thread. On the same host, the lock of a killed process is taken over at once, but not before the
  process's parent has waited for it. On another host, a process that waits for the lock takes it over after
  ``SOFT_SECONDS`` without a renewal. A holder that was suspended for longer than that loses its lock unnoticed. The
  file of a worker that was killed on another host stays, and counts as a living worker, until a worker starts or ends
  on that host; the trial of such a worker is asked for again when its lease has run out.

A child of a fork does not hold the locks of its parent. A thread that asks for a lock that it holds gets RuntimeError.
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLease

from mergesearch.errors import UserError, nearest
from mergesearch.say import Say, silent

VARIABLE = "MERGESEARCH_LOCK"
KINDS = ("auto", "soft")
PATIENCE = 15.0
"""Seconds of waiting for a lock after which the user is told who holds it, and again after each such time."""
POLL_SECONDS = 0.01
"""Between two attempts to take a lock that another process holds."""
SOFT_SECONDS = 30.0
"""After how long without a renewal another host takes over a soft lock."""


@contextmanager
def held_lock(
    file: Path, say: Say = silent, is_short: bool = False, lock: BaseFileLock | None = None
) -> Iterator[None]:
    """Holds the lock of a file, and waits for as long as another process has it.

    The holder is written beside the file, so that processes that wait for long can ``say`` who it is; not where the
    lock ``is_short``, and taken often: then only processes of the same host find out. ``lock`` is the lock itself where
    the caller has it: a thread that holds it takes it again at once.
    """
    waiting = _Waiting(file, say)
    with (lock or file_lock(file)).acquire(cancel_check=waiting.notice):
        if not is_short:
            waiting.holder.write_text(f"{socket.gethostname()} {os.getpid()} {time.time():.0f}\n")
        yield


class _Waiting:
    """A wait for the lock of a file."""

    def __init__(self, file: Path, say: Say) -> None:
        self.holder = file.with_name(f"{file.name}.holder")
        self._say, self._due = say, time.monotonic() + PATIENCE

    def notice(self) -> bool:
        """Tells the user where the wait is long. Returns False: it goes on."""
        if time.monotonic() >= self._due:
            self._due += PATIENCE
            self._say(self._described())
        return False

    def _described(self) -> str:
        lock = self.holder.with_suffix("")
        host: str
        process: str | None
        try:
            host, process, since = self.holder.read_text().split()
            held = f"since {datetime.fromtimestamp(float(since)):%Y-%m-%d %H:%M:%S}"
        except (OSError, ValueError, OverflowError):
            host, process, held = socket.gethostname(), _holder_here(lock), "now"
        if process is None:
            return f"waiting for another process, which holds the lock {lock}"
        who = f"process {process} on {host}, which holds the lock {lock} {held}"
        if host == socket.gethostname() and is_stopped(process):
            return f"waiting for {who} and is stopped: `kill -CONT {process}` continues it, `kill -9` ends it"
        return f"waiting for {who}; if it hangs, end it there: its trial is scored again"


def _holder_here(lock: Path) -> str | None:
    """The process of this host that has locked a file; None where Linux does not tell."""
    try:
        inode, locks = lock.stat().st_ino, Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    fields = [line.split() for line in locks if "->" not in line]
    return next((parts[4] for parts in fields if len(parts) > 5 and parts[5].endswith(f":{inode}")), None)


def is_stopped(process: str) -> bool:
    """Whether a process of this host is stopped, as by SIGSTOP or Ctrl-Z; False where the system does not tell."""
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] in ("T", "t")


def file_lock(file: Path, of_thread: bool = True) -> BaseFileLock:
    """A new lock on a file, which is created where it is missing; to be used as a context manager.

    ``of_thread``: the thread that takes it has it, rather than the process. Raises UserError where ``MERGESEARCH_LOCK``
    names no kind of lock.
    """
    kind = os.environ.get(VARIABLE, "auto")
    if kind not in KINDS:
        raise UserError(f"{VARIABLE}: there is no kind of lock {kind!r}{nearest(kind, KINDS)}")
    if kind == "soft":
        return SoftFileLease(file, lease_duration=SOFT_SECONDS, poll_interval=POLL_SECONDS, thread_local=of_thread)
    return FileLock(file, poll_interval=POLL_SECONDS, thread_local=of_thread)
