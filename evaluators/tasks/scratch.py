"""Folders for candidates that programs read: gone when the work is done, and when the process was killed."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from mergesearch.files import ended_by_exception, remove

PREFIX, SUFFIX = ".mergesearch-candidate-", ".tmp"
_LOCK = "lock"


@contextmanager
def scratch_folder(beside: Path | None) -> Iterator[Path]:
    """A new folder in ``TMPDIR``, where that is set, else in the folder ``beside``, else in the system's own.

    It is removed when the context ends. Those that killed processes left at the same place are removed first.
    """
    parent = Path(tempfile.gettempdir()) if os.environ.get("TMPDIR") or beside is None else beside
    _remove_stale(parent)
    folder = parent / f"{PREFIX}{uuid.uuid4().hex[:12]}{SUFFIX}"
    with ended_by_exception():
        try:
            folder.mkdir(mode=0o700)
            with FileLock(folder / _LOCK):
                yield folder
        finally:
            with suppress(FileNotFoundError):
                remove(folder)


def _remove_stale(parent: Path) -> None:
    for folder in parent.glob(f"{PREFIX}*{SUFFIX}"):
        with suppress(Timeout, OSError), FileLock(folder / _LOCK, blocking=False):
            remove(folder)
