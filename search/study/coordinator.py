"""The coordinator of a run whose workers share no file system: it has the run's folder, and keeps its lock for them.

To the processes that look at the folder itself, it stands for its workers: it holds the lock of each one's file, so
that they are seen as living, and the run's lock while one of them has it. What it must remember over its own death is
in ``exchange.json``: a coordinator of the same session goes on where the one before ended.
"""

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from filelock import Timeout

from mergesearch.errors import UserError
from mergesearch.files import put_in_place, remove, write_text
from mergesearch.search.study.exchange import (
    LOG,
    Changes,
    Entry,
    LostError,
    Part,
    Pulse,
    check_name,
    silence,
)
from mergesearch.search.study.locks import file_lock
from mergesearch.search.study.progress import NOW
from mergesearch.search.study.run_folder import LOCK, RunFolder
from mergesearch.search.study.served_journal import ServedJournal
from mergesearch.search.study.stop import is_asked_to_stop
from mergesearch.search.study.versions import Versions, version_of

FILE, OWN_LOCK = "exchange.json", "exchange.lock"
PATIENCE = 30.0
"""Seconds that a coordinator waits for the one before it to end."""


class _Worker:
    """A worker of this coordinator: when it last gave a sign of life, and how whoever started it calls it."""

    def __init__(self, member: str) -> None:
        self.member = member
        self.seen = time.monotonic()
        self.files = ExitStack()


class Coordinator:
    """See ``JournalExchange``, whose calls this answers, one at a time. ``session``: whose workers it goes on with."""

    def __init__(self, path: Path, session: str) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self._path, self._session = path, session
        self._folder, self._journal = RunFolder(path), ServedJournal(path)
        self._files = Versions(path)
        self._workers: dict[str, _Worker] = {}
        self._names: dict[str, str] = {}  # of the workers by member, dead ones too
        self._dead: set[str] = set()
        self._holder = ""
        self._lock = ExitStack()
        self._claims: dict[str, str] = {}
        self._is_ending, self._silence = False, silence()
        self._own = ExitStack()
        try:
            lock = file_lock(path / OWN_LOCK, of_thread=False)
            self._own.enter_context(lock.acquire(timeout=PATIENCE))
        except Timeout:
            raise UserError(f"{path}: another command has workers elsewhere at this run: wait for its end") from None
        self._go_on()

    def _go_on(self) -> None:
        """Takes over what the coordinator before left: its workers, where they are of the same session."""
        try:
            before = json.loads((self._path / FILE).read_bytes())
        except (OSError, ValueError):
            return
        if before["session"] != self._session:  # its workers are refused, whatever they are at
            self._dead.update(before["workers"])
            return
        for name, member in before["workers"].items():
            self._admit(name, member)
        self._holder = before["holder"]
        if self._holder and not self._holds_lock():
            self._holder = ""  # a process at the folder itself was quicker

    def _remember(self) -> None:
        workers = {name: worker.member for name, worker in self._workers.items()}
        write_text(
            self._path / FILE, json.dumps({"session": self._session, "workers": workers, "holder": self._holder}) + "\n"
        )

    def close(self) -> None:
        """Lets go of everything."""
        for name in list(self._workers):
            self._bury(name)
        self._own.close()

    # Workers

    def join(self, worker: str, member: str) -> bool:
        if worker in self._workers:
            return True
        if worker in self._dead:
            raise LostError(worker)
        self._bury_silent()
        if self._holder or not self._holds_lock():
            return False
        try:
            self._folder.clean_up()
            self._admit(worker, member)
        finally:
            self._lock.close()
        self._remember()
        return True

    def _admit(self, name: str, member: str) -> None:
        worker = _Worker(member)
        worker.files.enter_context(self._folder.workers.held(name))
        self._workers[name] = worker
        self._names[member] = name

    def leave(self, worker: str, log: bytes) -> None:
        if worker in self._workers:
            self._log(log)
            self._bury(worker)
            if not self._holder and self._holds_lock():
                self._folder.clean_up()
                self._lock.close()

    def lost(self, member: str) -> None:
        """Whoever started a worker says that it is dead."""
        name = self._names.get(member)
        if name in self._workers:
            self._bury(name)

    def name_of(self, member: str) -> str:
        """The last name of a worker; empty where it never joined."""
        return self._names.get(member, "")

    def end(self) -> None:
        """Asks all workers to end now."""
        self._is_ending = True

    def _bury(self, name: str) -> None:
        worker = self._workers.pop(name)
        self._dead.add(name)
        if self._holder == name:
            self._let_go()
        self._claims = {what: owner for what, owner in self._claims.items() if owner != name}
        remove(self._staging(name))
        with suppress(OSError):
            remove(self._path / NOW / name)
        worker.files.close()
        self._remember()

    def _know(self, worker: str) -> _Worker:
        """Every call of a worker is a sign of life; those that gave none for long are dead."""
        if worker in self._workers:
            self._workers[worker].seen = time.monotonic()
        self._bury_silent()
        if worker not in self._workers:
            raise LostError(worker)
        return self._workers[worker]

    def _bury_silent(self) -> None:
        since = time.monotonic() - self._silence
        for name in [name for name, each in self._workers.items() if each.seen < since]:
            self._bury(name)

    def beat(self, worker: str, log: bytes) -> Pulse:
        self._know(worker)
        self._log(log)
        return Pulse(time.time(), is_asked_to_stop(self._path, worker), self._is_ending)

    def _log(self, lines: bytes) -> None:
        if lines:
            with suppress(OSError), (self._path / LOG).open("ab") as file:
                file.write(lines)

    def living(self, worker: str) -> list[str]:
        self._know(worker)
        return self._folder.workers.living()

    def is_dead(self, worker: str, name: str) -> bool:
        self._know(worker)
        return name in self._dead or (name not in self._workers and self._folder.workers.is_dead(name))

    def claim(self, worker: str, name: str) -> bool:
        self._know(worker)
        return self._claims.setdefault(name, worker) == worker

    # The lock

    def take(self, worker: str) -> str | None:
        self._know(worker)
        if self._holder == worker:
            return None
        if self._holder:
            return self._holder
        if not self._holds_lock():
            return "a process at the run's folder itself"
        self._holder = worker
        self._remember()
        return None

    def _holds_lock(self) -> bool:
        """Takes the folder's own lock, where it is free."""
        try:
            lock = file_lock(self._path / LOCK, of_thread=False)
            self._lock.enter_context(lock.acquire(blocking=False))
        except Timeout:
            return False
        return True

    def release(self, worker: str) -> None:
        self._know(worker)
        if self._holder == worker:
            self._let_go()
            self._remember()

    def _let_go(self) -> None:
        self._holder = ""
        self._lock.close()

    # Files

    def changes(self, worker: str, mark: str) -> Changes:
        self._know(worker)
        return self._files.since(mark)

    def fetch(self, worker: str, name: str, offset: int, size: int) -> Part | None:
        self._know(worker)
        file = self._place(name)
        try:
            with file.open("rb") as opened:
                opened.seek(offset)
                return Part(version_of(file), file.stat().st_size, opened.read(size))
        except (FileNotFoundError, IsADirectoryError):
            return None

    def put(self, worker: str, name: str, offset: int, data: bytes) -> None:
        self._know(worker)
        self._place(name)
        file = self._staging(worker) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("r+b" if file.exists() else "wb") as opened:
            opened.seek(offset)
            opened.write(data)
            opened.truncate()

    def commit(self, worker: str, name: str, durable: bool) -> dict[str, str]:
        self._know(worker)
        staged, target = self._staging(worker) / name, self._place(name)
        if staged.exists():  # else an earlier answer was lost
            target.parent.mkdir(parents=True, exist_ok=True)
            put_in_place(staged, target, durable)
        files = [file for file in target.rglob("*") if file.is_file()] if target.is_dir() else [target]
        return {file.relative_to(self._path).as_posix(): version_of(file) for file in files}

    def remove(self, worker: str, name: str) -> None:
        self._know(worker)
        remove(self._place(name))

    def _place(self, name: str) -> Path:
        check_name(name)
        return self._path / name

    def _staging(self, worker: str) -> Path:
        return self._path / f".{worker}.tmp"

    # The study

    def entries(self, worker: str, begin: int) -> Sequence[Entry]:
        self._know(worker)
        return self._journal.entries(begin)

    def append(self, worker: str, entries: Sequence[Entry], request: str, begin: int) -> Sequence[Entry]:
        self._know(worker)
        self._journal.append(entries, request)
        return self._journal.entries(begin)
