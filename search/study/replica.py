"""A run's folder that is elsewhere, and a folder here that follows it: for workers that share no file system with it.

When a worker takes the run's lock, what is new or changed there comes here; before it lets go of the lock, what it has
changed goes there, each file or folder as a whole. Per-item scores come when they are read. The study, the lock and the
living workers are those of the coordinator; see ``Exchange``.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import cast

from filelock import Timeout
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage

from mergesearch.beside import beside
from mergesearch.files import remove
from mergesearch.say import Say, silent
from mergesearch.search.study.exchange import (
    BEATS,
    CHUNK,
    LOCAL,
    LOG,
    ArtifactError,
    Exchange,
    JournalExchange,
    LostError,
    silence,
)
from mergesearch.search.study.journal import storage_on
from mergesearch.search.study.locks import PATIENCE
from mergesearch.search.study.progress import Doing
from mergesearch.search.study.remote import RemoteJournal, RemoteWorkers
from mergesearch.search.study.run_folder import SCORES, RunFolder
from mergesearch.search.study.transfer import bring, header_of, whole
from mergesearch.search.study.versions import files_in
from mergesearch.search.study.workers import new_name

WHOLE = ("model", "front")
"""Folders that are put in place as a whole."""
EAGER = LOCAL | {SCORES, "attempts"}
"""What is not looked through for changes: it is passed on when it changes, or never."""
POLL = 0.01, 0.2
"""Seconds between two attempts to take the lock: at first, and at most."""


def interrupt() -> None:
    """Interrupts this process, as Ctrl-C does."""
    os.kill(os.getpid(), signal.SIGINT)


class Replica(RunFolder):
    """A run's folder elsewhere, as this worker sees it, with its files in a folder here that is the worker's own.

    Args:
        path: the folder here, which has the name of the run and is empty.
        exchange: the way to the coordinator.
        member: how whoever started this worker calls it.
        say: see ``RunFolder``.
        end: is called from another thread where all workers are to end now.
        storage: opens the study for the worker of a name; None for the coordinator's journal, or for the database
            that ``open_study`` is given.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - a replica, where it is from, and who is told of it
        self,
        path: Path,
        exchange: Exchange,
        member: str = "",
        say: Say = silent,
        end: Callable[[], None] = interrupt,
        storage: Callable[[str], BaseStorage] | None = None,
    ) -> None:
        super().__init__(path, say)
        path.mkdir(parents=True, exist_ok=True)
        self._exchange, self._member, self._end = exchange, member or path.as_posix(), end
        self._storage = storage
        self.workers = self._members = RemoteWorkers(exchange, lambda: self.worker)
        self._mark = ""
        self._there: dict[str, str] = {}  # the version of each file there
        self._here: dict[str, tuple[int, int]] = {}  # the time and size of each file here that is as it is there
        self._heads: set[str] = set()  # files of which only the header is here
        self._has_lock = self._is_stopping = False
        self._logged = 0
        self._files = threading.RLock()
        self._threads = threading.Lock()  # the coordinator tells workers apart, not their threads

    # Workers

    @contextmanager
    def joined(self) -> Iterator[list[str]]:
        """See ``RunFolder.joined``."""
        self.worker, pause = new_name(), _Pause(self._say)
        while not self._exchange.join(self.worker, self._member):
            pause("a process at the run's folder")
        self._beat()
        try:
            with beside(self._beat_until):
                with self.locked():
                    others = [name for name in self.workers.living() if name != self.worker]
                yield others
        finally:
            with suppress(Exception):  # what ended the worker is what counts
                self._exchange.leave(self.worker, self._new_lines())

    def _beat_until(self, is_over: threading.Event) -> None:
        while not is_over.wait(silence() / BEATS):
            try:
                is_ending = self._beat()
            except LostError:  # this worker finds out when it next has something to say
                return
            except StorageInternalError:  # a database is away for long
                continue
            if is_ending:
                self._end()
                return

    def _beat(self) -> bool:
        """Gives a sign of life; whether all workers are to end now."""
        pulse = self._exchange.beat(self.worker, self._new_lines())
        self._members.set_clock(pulse.now)
        self._is_stopping = pulse.is_stopping
        return pulse.is_ending

    def _new_lines(self) -> bytes:
        """What was logged since the last time."""
        try:
            with (self.path / LOG).open("rb") as log:
                log.seek(self._logged)
                lines = log.read()
        except FileNotFoundError:
            return b""
        self._logged += len(lines)
        return lines

    @property
    def is_stopping(self) -> bool:
        """See ``RunFolder.is_stopping``."""
        return self._is_stopping

    def others(self) -> list[Doing]:
        """The other living workers; what each does is not known here."""
        return [Doing(name, "working") for name in self.workers.living() if name != self.worker]

    def claim(self, name: str) -> AbstractContextManager[object]:
        """See ``RunFolder.claim``."""
        if not self._exchange.claim(self.worker, name):
            raise Timeout(name)
        return nullcontext()

    # The lock

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the run's lock. What has changed there comes here first, and what was changed here goes there last."""
        with self._threads:
            yield from self._locked()

    def _locked(self) -> Iterator[None]:
        pause = _Pause(self._say)
        while holder := self._exchange.take(self.worker):
            pause(holder)
        try:
            self._update()
            self._has_lock = True
            try:
                yield
            finally:
                self._has_lock = False
                self._send_changes()
        finally:
            self._exchange.release(self.worker)

    def _update(self) -> None:
        """Brings the folder here up to date."""
        changes = self._exchange.changes(self.worker, self._mark)
        with self._files:
            gone = self._there.keys() - changes.versions.keys() if changes.is_whole else ()
            for name, version in {**dict.fromkeys(gone), **changes.versions}.items():
                if version == self._there.get(name, "") and version is not None:
                    continue
                if version is None or name.startswith(f"{SCORES}/"):  # scores come when they are read
                    self._drop(name)
                if version is not None:
                    self._there[name] = version
                    if not name.startswith(f"{SCORES}/"):
                        self._fetch(name)
        self._mark = changes.mark

    def _drop(self, name: str) -> None:
        self._there.pop(name, None)
        self._here.pop(name, None)
        self._heads.discard(name)
        remove(self.path / name)

    def _open_storage(self, url: str | None) -> BaseStorage:
        if self._storage:
            return self._storage(self.worker)
        if url:
            return super()._open_storage(url)
        return storage_on(RemoteJournal(cast(JournalExchange, self._exchange), lambda: self.worker, self.path))

    # Files that come

    def scores_file(self, name: str) -> Path:
        """See ``RunFolder.scores_file``; it comes here where it was not yet."""
        file = self._file_of_scores(name)
        if not file.exists():
            with self._files:
                self._fetch(self._name(file))
        return file

    def scores_names(self) -> list[str]:
        """See ``RunFolder.scores_names``: those that were there when this worker last took the lock, or saved here."""
        return sorted(Path(name).stem for name in self._there if name.startswith(f"{SCORES}/"))

    def _fetch(self, name: str) -> None:
        """Brings a file here, whole or, of a large one of weights, its header; nothing where there is none."""
        wanted = header_of if name.endswith(".safetensors") else whole
        found = bring(self._exchange, self.worker, name, self.path / name, wanted)
        if found is None:
            self._drop(name)
            return
        self._note(name, found.version)
        self._heads -= {name}
        self._heads |= set() if found.is_whole else {name}

    def _note(self, name: str, version: str) -> None:
        """Takes note that a file here is as it is there."""
        self._there[name], self._here[name] = version, _stamp(self.path / name)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()

    # Files that go

    def share(self, path: Path, durable: bool = True) -> None:
        """See ``RunFolder.share``. Under the lock, what was changed before goes there first, so that order is kept."""
        passing = () if durable else (LostError, StorageInternalError, ArtifactError)
        with self._files, suppress(*passing):  # what is not durable is lost without harm
            if self._has_lock and durable:
                self._send_changes()
            name = self._name(path)
            if not path.exists():
                self._remove(name)
            elif self._here.get(name) != _stamp(path):
                self._send([name], name, durable)

    def _send_changes(self) -> None:
        """Sends what was changed here, in the order in which it was."""
        with self._files:
            now = {self._name(file): _stamp(file) for file in files_in(self.path, skipped=EAGER)}
            changed = {name: stamp for name, stamp in now.items() if self._here.get(name) != stamp}
            units: dict[str, list[str]] = {}
            for name in sorted(changed, key=lambda name: changed[name]):
                unit = name.partition("/")[0]
                units.setdefault(unit if unit in WHOLE else name, []).append(name)
            for unit in units:
                self._send([name for name in now if name == unit or name.startswith(f"{unit}/")], unit)
            for name in [name for name in self._here if name.partition("/")[0] not in EAGER and name not in now]:
                self._remove(name)

    def _send(self, names: list[str], unit: str, durable: bool = True) -> None:
        """Sends a file, or all files of a folder."""
        if holes := self._heads.intersection(names) & {name for name in names if not self._is_new(name)}:
            raise RuntimeError(f"{min(holes)}: only its header is here")
        stamps = {name: _stamp(self.path / name) for name in names}
        for name in names:
            with (self.path / name).open("rb") as file:
                offset, data = 0, file.read(CHUNK)
                while data or not offset:
                    self._exchange.put(self.worker, name, offset, data)
                    offset += len(data) or 1
                    data = file.read(CHUNK)
        versions = self._exchange.commit(self.worker, unit, durable)
        for name, stamp in stamps.items():
            self._there[name], self._here[name] = versions[name], stamp
            self._heads.discard(name)

    def _is_new(self, name: str) -> bool:
        return self._here.get(name) != _stamp(self.path / name)

    def _remove(self, name: str) -> None:
        self._exchange.remove(self.worker, name)
        for each in [each for each in self._there if each == name or each.startswith(f"{name}/")]:
            self._drop(each)


class _Pause:
    """Pauses between two attempts to take what another has, which grow."""

    def __init__(self, say: Say) -> None:
        self._say, self._seconds, self._due = say, POLL[0], time.monotonic() + PATIENCE

    def __call__(self, holder: str) -> None:
        if time.monotonic() >= self._due:
            self._due += PATIENCE
            self._say(f"waiting for {holder}, which holds the run's lock")
        time.sleep(self._seconds)
        self._seconds = min(POLL[1], self._seconds * 1.5)


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_mtime_ns, status.st_size
