"""Opens the storage of a study: a journal file, or a database."""

import os
import re
import time
import weakref
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING

from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock

from mergesearch.errors import UserError
from mergesearch.search.study.locks import file_lock

if TYPE_CHECKING:
    from sqlalchemy import Engine

TABLES_RETRIED = (0.0, 0.2, 0.5, 1.0, 2.0)
"""Seconds before each attempt to open a database whose tables another process creates."""
BLOCK = 1 << 16
"""Bytes that are read at once in search of the journal's last whole line."""


def open_journal(file: Path) -> BaseStorage:
    """The storage in a journal file, which is created where it is missing."""
    file.touch()
    return JournalStorage(JournalFileBackend(str(file), JournalLock(file)))


class JournalLock(BaseJournalFileLock):
    """The lock on a journal, held while an entry is appended. Its file is the journal's, with the suffix ``.lock``.

    The lock ends with the process that holds it. Optuna's own lock is a file, which a killed process leaves behind.

    A process that is killed while it appends leaves half a line. An entry behind it would make the journal unreadable,
    so whoever takes the lock first cuts the half line off.
    """

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._held = ExitStack()

    def acquire(self) -> bool:
        """Waits for the lock."""
        with ExitStack() as stack:
            stack.enter_context(file_lock(self._journal.with_suffix(".lock")))
            with self._journal.open("r+b") as journal:
                _cut_torn_tail(journal)
            self._held = stack.pop_all()
        return True

    def release(self) -> None:
        """Gives the lock back."""
        self._held.close()


def _cut_torn_tail(journal: IO[bytes]) -> None:
    """Cuts off what follows the last newline."""
    end = journal.seek(0, os.SEEK_END)
    whole = end
    while whole > 0:
        begin = max(0, whole - BLOCK)
        journal.seek(begin)
        newline = journal.read(whole - begin).rfind(b"\n")
        whole = begin + newline + 1
        if newline >= 0:
            break
    if whole < end:
        journal.truncate(whole)


def open_database(url: str) -> BaseStorage:
    """The storage in the database at ``url``, an address as SQLAlchemy takes it. Raises UserError where that fails.

    Connections are tested before each use: those that the server has closed are opened again. When two processes
    create the tables of a new database at the same moment, one of them fails, and tries again.
    """
    failure: Exception | None = None
    for pause in TABLES_RETRIED:
        time.sleep(pause)
        try:
            return _closing(RDBStorage(url, engine_kwargs={"pool_pre_ping": True}))
        except Exception as error:
            failure = error
        if not any(word in str(failure).lower() for word in ("unique", "already exists")):
            break
    hint = "; for PostgreSQL, `pip install psycopg[binary]` and write postgresql+psycopg://..."
    reason = f"{str(failure).splitlines()[0]}{hint if isinstance(failure, ImportError) else ''}"
    raise UserError(f"storage: cannot open {without_password(url)!r}: {reason}") from None


def _closing(storage: RDBStorage) -> RDBStorage:
    """The storage, whose connections are closed once nothing refers to it."""
    weakref.finalize(storage, _close, storage.engine, os.getpid())
    return storage


def _close(engine: "Engine", owner: int) -> None:
    """Closes a pool's connections; a forked process only forgets them, because they are its parent's."""
    engine.dispose(close=os.getpid() == owner)


def without_password(url: str) -> str:
    """The address of a database, to be shown to users."""
    return re.sub(r"(://[^/@]*:)[^/@]*@", r"\1***@", url)
