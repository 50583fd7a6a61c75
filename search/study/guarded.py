"""The storage of a study in a database as a worker may change it whose place another can take."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from weakref import WeakSet

from optuna.storages import RDBStorage
from optuna.storages._rdb.models import TrialModel
from sqlalchemy import Connection, event, inspect
from sqlalchemy.orm import Session

TIMES = ("_datetime_start_utc", "_datetime_complete_utc")
"""Where a trial has its times, without a time zone."""


def guard(storage: RDBStorage, check: Callable[[Connection], None]) -> None:
    """Lets ``check`` be asked before each commit of changes, by the same transaction; it raises where it may not be."""
    changed = WeakSet[Connection]()

    def note(connection: Connection, _: Any, statement: str, *__: Any) -> None:
        if not statement.lstrip().upper().startswith("SELECT"):
            changed.add(connection)

    def ask(connection: Connection) -> None:
        if connection in changed:
            changed.discard(connection)
            check(connection)

    event.listen(storage.engine, "before_cursor_execute", note)
    event.listen(storage.engine, "commit", ask)
    event.listen(storage.engine, "rollback", changed.discard)


def set_clock(storage: RDBStorage, now: Callable[[], float]) -> None:
    """Lets trials begin and end by a clock that gives seconds since the epoch, in place of this host's."""

    def correct(session: Session, *_: Any) -> None:
        for trial in (*session.new, *session.dirty):
            if isinstance(trial, TrialModel):
                _correct(trial, datetime.fromtimestamp(now(), UTC).replace(tzinfo=None))

    # Optuna has no public way to its sessions or models.
    event.listen(storage.scoped_session, "before_flush", correct)


def _correct(trial: TrialModel, now: datetime) -> None:
    """Corrects the time that is set now; a trial that gets both was run elsewhere."""
    changed = [key for key in TIMES if inspect(trial).attrs[key].history.added not in ((), [], [None])]
    if len(changed) == 1:
        setattr(trial, changed[0], now)
