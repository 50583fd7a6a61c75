"""Whether the locks of a file system hold: a test at joining a run.

Locks that do not hold would let two workers ask for the same trial. Two things are looked at:

* Two processes of this host and one lock: the second must not get it, must get it when the first lets go, and the first
  gets it again when the second is killed. File systems of this host alone are known, and not tested; others are at each
  joining, which takes half a second.
* A worker of another host that lives, as it says every few seconds what it does, must hold the lock of its file. This
  finds locks that end at the host. Where a file is not locked, it waits whether the worker lives.
"""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from filelock import Timeout

from mergesearch.errors import UserError
from mergesearch.search.study.locks import VARIABLE, file_lock
from mergesearch.search.study.progress import NOW
from mergesearch.search.study.workers import Workers

LOCAL = {"apfs", "bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"}
"""The types of file systems that one host alone has."""
MOUNTS = Path("/proc/self/mountinfo")
LONG = 15.0
"""Seconds in which a process that lives has answered, and in which the lock of a killed one is free."""
SILENT = 6.0
"""Seconds in which a worker that lives has said what it does."""
FILE = "test.lock"


def check_locks(folder: Path) -> None:
    """Raises UserError where the locks in a folder do not hold between processes of this host."""
    if file_system(folder) not in LOCAL and (found := _failure(folder / FILE)):
        raise _refused(folder, found)


def check_others(folder: Path) -> None:
    """Raises UserError where a worker of another host lives, whose lock is not seen here."""
    workers, here = Workers(folder / "workers"), socket.gethostname()
    files = list(workers.folder.iterdir()) if workers.folder.is_dir() else []
    foreign = [file.name for file in files if file.name.rsplit(".", 2)[0] != here]
    said = {name: _said(folder, name) for name in foreign if not workers.is_living(name)}
    until = time.monotonic() + SILENT
    while any(said.values()) and time.monotonic() < until:
        time.sleep(0.2)
        for name, before in said.items():
            if before and _said(folder, name) not in (before, b"") and not workers.is_living(name):
                raise _refused(folder, f"{name} is at work on another host, and its lock is not seen here")


def _said(folder: Path, worker: str) -> bytes:
    try:
        return (folder / NOW / worker).read_bytes()
    except OSError:
        return b""


def _refused(folder: Path, found: str) -> UserError:
    soft = f"set {VARIABLE}=soft for every worker, or " if os.environ.get(VARIABLE) != "soft" else ""
    return UserError(
        f"{folder}: the locks of this file system do not hold: {found}; {soft}let the workers share a database and an "
        "artifact store (--storage and --artifacts), or a Ray cluster (--ray), in place of this folder"
    )


def file_system(folder: Path) -> str:
    """The type of the file system that a folder is on; empty where the system does not tell."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    mounted = [(fields[4].replace("\\040", " "), fields[fields.index("-") + 1]) for fields in map(str.split, lines)]
    above = [(place, kind) for place, kind in mounted if folder.resolve().is_relative_to(place)]
    return max(reversed(above), key=lambda each: len(each[0]), default=("", ""))[1]  # a later one hides an earlier


def _failure(file: Path) -> str:
    """How the lock of a file does not hold; empty where it does, or where that is not found out in time."""
    command = [sys.executable, "-m", "mergesearch.search.study.lock_test", str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        try:
            return _failure_beside(other, file)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        finally:
            other.kill()
            file.unlink(missing_ok=True)


def _failure_beside(other: "subprocess.Popen[str]", file: Path) -> str:
    lock = file_lock(file)
    with lock:
        if _gets(other):
            return "two processes had the same lock"
    if not _gets(other):
        return "a process did not get a lock that another had let go"
    try:
        with lock.acquire(blocking=False):
            return "two processes had the same lock"
    except Timeout:
        pass
    other.kill()
    other.wait(LONG)
    try:
        with lock.acquire(timeout=LONG):
            return ""
    except Timeout:
        return "the lock of a process that was killed stayed"


def _gets(other: "subprocess.Popen[str]") -> bool:
    assert other.stdin is not None
    assert other.stdout is not None
    other.stdin.write("\n")
    other.stdin.flush()
    if not (answer := other.stdout.readline()):
        raise OSError("the process ended")
    return answer == "got\n"


def _try(file: Path) -> None:
    """Tries to take the lock at each line of the standard input, and says whether it did."""
    lock = file_lock(file)
    for _ in sys.stdin:
        try:
            lock.acquire(blocking=False)
            answer = "got"
        except Timeout:
            answer = "held"
        print(answer, flush=True)


if __name__ == "__main__":
    _try(Path(sys.argv[1]))
