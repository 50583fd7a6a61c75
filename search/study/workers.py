"""The processes that work on one run. Each holds the lock of a file of its own for as long as it lives."""

import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import Timeout

from mergesearch.search.study.locks import file_lock


def new_name() -> str:
    """A name for this process as a worker."""
    return f"{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex[:16]}"


class Workers:
    """The files of a run's workers. A worker's name is HOST.PID.RANDOM.

    RANDOM tells the worker from other processes with the same PID: earlier ones, and those of other containers.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def joined(self) -> Iterator[str]:
        """Makes this process a worker until the context ends; gives its name."""
        name = new_name()
        with self.held(name):
            yield name

    @contextmanager
    def held(self, name: str, waits: bool = True) -> Iterator[None]:
        """Makes the owner of a name a worker for as long as this process holds it, which may have come from another.

        Raises Timeout where another process holds it, unless this one ``waits``.
        """
        file = self.folder / name
        with file_lock(file, of_thread=False).acquire(blocking=waits):
            try:
                yield
            finally:
                file.unlink(missing_ok=True)

    def now(self) -> float:
        """The time that leases go by, in seconds since the epoch."""
        return time.time()

    def seen(self) -> list[str]:
        """The names of the workers on every host, at any time; see ``living``."""
        files = sorted(self.folder.iterdir()) if self.folder.is_dir() else []
        return [file.name for file in files if self.is_living(file.name)]

    def living(self) -> list[str]:
        """The names of the workers on every host. The files of dead workers are removed.

        To be called while no worker joins.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        names = sorted(file.name for file in self.folder.iterdir())
        living = [name for name in names if self._is_locked(name)]
        for name in set(names) - set(living):
            (self.folder / name).unlink(missing_ok=True)
        return living

    def is_dead(self, name: str) -> bool:
        """Whether the worker's process has ended for certain; False for a worker of another host."""
        return name.rsplit(".", 2)[0] in ("", socket.gethostname()) and not self._is_locked(name)

    def is_living(self, name: str) -> bool:
        """Whether the worker's process lives, on any host."""
        return bool(name) and self._is_locked(name)

    def _is_locked(self, name: str) -> bool:
        file = self.folder / name
        if not file.exists():  # taking the lock would create it
            return False
        try:
            with file_lock(file).acquire(blocking=False):
                return False
        except Timeout:
            return True
