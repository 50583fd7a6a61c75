"""The storage of a study in a database.

Operations that fail because the database is locked, or because its server restarts, are tried again for a minute.
"""

import os
import re
import time
import weakref
from collections.abc import Callable, Mapping
from functools import wraps
from inspect import isfunction
from threading import local
from typing import TYPE_CHECKING, Any, Protocol, cast

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage

from mergesearch.errors import UserError, first_line
from mergesearch.files import is_disk_full
from mergesearch.say import Say, silent

if TYPE_CHECKING:
    from sqlalchemy import Engine

PAUSES = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 20.0)
"""Seconds before each attempt at an operation that fails for a passing reason: a minute in all."""
SQLITE_SECONDS = 2.0
"""How long SQLite itself waits for a lock."""
PASSING = ("unique", "already exists", "locked", "starting up", "shutting down", "too many clients", "connection slots")
"""Words of errors for which opening a database is tried again: another process makes its tables, it restarts, or it
has no connection left."""


def open_database(
    url: str,
    say: Say = silent,
    settings: Mapping[str, Any] | None = None,
    prepare: "Callable[[PatientDatabase], None]" = lambda _: None,
) -> BaseStorage:
    """The storage in the database at ``url``, an address as SQLAlchemy takes it. Raises UserError where that fails.

    ``say`` tells the user that an operation is tried again. Connections are tested before each use: those that the
    server has closed are opened again. When two processes create the tables of a new database at the same moment, one
    of them fails, and tries again. ``settings`` are those of each connection; ``prepare`` gets the storage before it is
    used.
    """
    failure: Exception | None = None
    waits = {"timeout": SQLITE_SECONDS} if url.startswith("sqlite") else {}
    for pause in PAUSES:
        time.sleep(pause)
        try:
            connecting = {"pool_pre_ping": True, "connect_args": {**waits, **(settings or {})}}
            storage = PatientDatabase(url, connecting, say)
            prepare(storage)
            return _closing(storage)
        except Exception as error:
            failure = cast(Exception, error.__cause__ or error)
        if not any(word in str(failure).lower() for word in PASSING):
            break
    hint = "; for PostgreSQL, `pip install psycopg[binary]` and write postgresql+psycopg://..."
    reason = f"{first_line(failure) if failure else ''}{hint if isinstance(failure, ImportError) else ''}"
    raise UserError(f"storage: cannot open {without_password(url)!r}: {reason}") from None


class Patient(Protocol):
    """What operations with a database belong to that are tried again."""

    engine: "Engine"
    say: Say
    attempt: local
    check: Callable[[], None]


class PatientDatabase(RDBStorage):
    """A database whose operations are tried again while they fail for a passing reason.

    ``check`` raises an error where a trial may have been ended by another, who took this worker for dead.
    """

    check: Callable[[], None]

    def __init__(self, url: str, engine_kwargs: dict[str, Any], say: Say = silent) -> None:
        self.say = say
        self.attempt = local()
        self.check = lambda: None
        super().__init__(url, engine_kwargs=engine_kwargs)


def patient(operation: Callable[..., Any]) -> Callable[..., Any]:
    """The operation, tried again where it is the outermost one of its thread, and raises StorageInternalError."""

    @wraps(operation)
    def tried(self: Patient, *arguments: Any, **keys: Any) -> Any:
        if getattr(self.attempt, "is_made", False):
            return operation(self, *arguments, **keys)
        self.attempt.is_made = True
        try:
            return _tried(self, operation, lambda: operation(self, *arguments, **keys))
        finally:
            self.attempt.is_made = False

    return tried


def _tried(database: Patient, operation: Callable[..., Any], attempt: Callable[[], Any]) -> Any:
    for number, pause in enumerate(PAUSES[1:]):
        try:
            return attempt()
        except UpdateFinishedTrialError:
            database.check()
            if number and operation.__name__ == "set_trial_state_values":
                return True  # the attempt before succeeded, and its answer was lost
            raise
        except StorageInternalError as error:
            if not _is_passing(database, error):
                raise
            database.say(f"the database does not answer ({first_line(error.__cause__ or error)}): trying again")
        time.sleep(pause)
    return attempt()


def _is_passing(database: Patient, error: StorageInternalError) -> bool:
    """Whether an operation may succeed later: SQLite is locked, or the server of another database is away."""
    from sqlalchemy.exc import InterfaceError, OperationalError, PendingRollbackError

    if database.engine.dialect.name == "sqlite":
        return any(word in str(error.__cause__).lower() for word in ("locked", "busy"))
    # The last is that of a session that Optuna asks again after its connection has ended.
    ended = InterfaceError | OperationalError | PendingRollbackError
    return isinstance(error.__cause__, ended) and not is_disk_full(error)


for _name, _operation in vars(RDBStorage).items():
    if isfunction(_operation) and not _name.startswith("__"):
        setattr(PatientDatabase, _name, patient(_operation))


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
