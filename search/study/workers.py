"""The processes that work on one run. Each holds the lock of a file of its own, which ends with it, however it ends."""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


class Workers:
    """The files of a run's workers. A name is HOST.PID.TIME: the time, in ns, tells it from an earlier process's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def joined(self) -> Iterator[str]:
        """The name of a new worker, this process, which counts as living until the context ends."""
        name = f"{socket.gethostname()}.{os.getpid()}.{time.time_ns()}"
        file = self._folder / name
        with file.open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            try:
                yield name
            finally:
                file.unlink(missing_ok=True)

    def living(self) -> list[str]:
        """The workers on every host; the files of those that died are removed."""
        self._folder.mkdir(parents=True, exist_ok=True)
        names = sorted(file.name for file in self._folder.iterdir())
        living = [name for name in names if self._is_locked(name)]
        for name in set(names) - set(living):
            (self._folder / name).unlink(missing_ok=True)
        return living

    def is_dead(self, name: str) -> bool:
        """Whether that worker's process has ended for certain; of another host's one cannot be certain."""
        return name.rsplit(".", 2)[0] in ("", socket.gethostname()) and not self._is_locked(name)

    def _is_locked(self, name: str) -> bool:
        try:
            with (self._folder / name).open("r+") as handle:
                return not _lock_at_once(handle)
        except FileNotFoundError:  # it may go between two looks
            return False


def _lock_at_once(handle: IO[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
