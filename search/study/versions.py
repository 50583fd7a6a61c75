"""The files of a run's folder that its coordinator passes on, and in which order they changed."""

import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mergesearch.search.study.exchange import LOCAL, Changes
from mergesearch.search.study.run_folder import SCORES

SLACK = 2e9
"""Nanoseconds for which a folder's time is not trusted: two changes may have the same."""


class Versions:
    """The files of a run's folder, and in which order they changed."""

    def __init__(self, path: Path) -> None:
        self._path, self._name = path, uuid.uuid4().hex
        self._count = 0
        self._found: dict[str, tuple[int, str | None]] = {}  # by name, those that changed last at the end
        self._scores: tuple[int, dict[str, str]] = (-1, {})

    def since(self, mark: str) -> Changes:
        """See ``Exchange.changes``."""
        self._look()
        name, _, number = mark.partition(" ")
        is_known, last = name == self._name, int(number or 0)
        found: dict[str, str | None] = {}
        for file, (count, version) in reversed(self._found.items()):
            if is_known and count <= last:
                break
            if is_known or version is not None:
                found[file] = version
        return Changes(f"{self._name} {self._count}", found, not is_known)

    def _look(self) -> None:
        now = dict(self._versions())
        gone = [name for name, (_, version) in self._found.items() if version is not None and name not in now]
        new = [name for name, version in now.items() if self._found.get(name, (0, None))[1] != version]
        for name in (*gone, *new):
            self._count += 1
            self._found.pop(name, None)
            self._found[name] = self._count, now.get(name)

    def _versions(self) -> Iterator[tuple[str, str]]:
        for file in files_in(self._path, skipped=LOCAL | {SCORES}):
            with suppress(FileNotFoundError):
                yield file.relative_to(self._path).as_posix(), version_of(file)
        yield from self._versions_of_scores().items()

    def _versions_of_scores(self) -> dict[str, str]:
        """There are many of them. A file that is replaced changes the time of its folder."""
        folder = self._path / SCORES
        try:
            changed = folder.stat().st_mtime_ns
        except FileNotFoundError:
            return {}
        if self._scores[0] != changed or time.time_ns() - changed < SLACK:
            found = {f"{SCORES}/{file.name}": version_of(file) for file in folder.iterdir() if file.name[0] != "."}
            self._scores = changed, found
        return self._scores[1]


def files_in(path: Path, skipped: set[str]) -> Iterator[Path]:
    """The files of a run's folder that are passed on, without temporary ones and locks."""
    for entry in path.iterdir() if path.is_dir() else ():
        if entry.name[0] == "." or entry.suffix in (".lock", ".holder") or entry.name in skipped:
            continue
        if entry.is_dir():
            yield from files_in(entry, skipped=set())
        elif entry.is_file():
            yield entry


def version_of(file: Path) -> str:
    """Changes with a file's content."""
    status = file.stat()
    return f"{status.st_mtime_ns}-{status.st_size}-{status.st_ino}"
