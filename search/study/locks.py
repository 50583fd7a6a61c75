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
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLease

from mergesearch.errors import UserError, nearest

VARIABLE = "MERGESEARCH_LOCK"
KINDS = ("auto", "soft")
POLL_SECONDS = 0.01
"""Between two attempts to take a lock that another process holds."""
SOFT_SECONDS = 30.0
"""After how long without a renewal another host takes over a soft lock."""


def file_lock(file: Path) -> BaseFileLock:
    """A new lock on a file, which is created where it is missing; to be used as a context manager.

    Raises UserError where ``MERGESEARCH_LOCK`` names no kind of lock.
    """
    kind = os.environ.get(VARIABLE, "auto")
    if kind not in KINDS:
        raise UserError(f"{VARIABLE}: there is no kind of lock {kind!r}{nearest(kind, KINDS)}")
    if kind == "soft":
        return SoftFileLease(file, lease_duration=SOFT_SECONDS, poll_interval=POLL_SECONDS)
    return FileLock(file, poll_interval=POLL_SECONDS)
