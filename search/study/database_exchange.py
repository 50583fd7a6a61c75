"""An ``Exchange`` that is a database and an artifact store: workers reach nothing else in common.

The run's lock is an advisory lock of PostgreSQL, which a connection of its worker holds and which ends with that. Who
takes it counts up the lock's *turn*. Whatever a worker changes, the study too, is committed only while the worker is
known as living and, where it had the lock, while the turn is its own: a worker whose connection ended cannot mix what
it had begun with what others do since. Time is that of the database's clock alone.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from sqlalchemy import (
    Connection,
    column,
    create_engine,
    delete,
    func,
    select,
    table,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError

from mergesearch.errors import DamagedFileError, first_line
from mergesearch.say import Say, silent
from mergesearch.search.study.artifacts import Artifacts
from mergesearch.search.study.database import PatientDatabase, open_database, patient
from mergesearch.search.study.database_files import DatabaseFiles
from mergesearch.search.study.exchange import Changes, LostError, Part, Pulse, check_name, silence
from mergesearch.search.study.guarded import guard, set_clock
from mergesearch.search.study.tables import CLAIMS, LOCKS, LOG, METADATA, RUNS, WORKERS

SETTINGS = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}
"""How soon a connection ends whose server does not answer."""
NOW = func.clock_timestamp()
UP = func.pg_postmaster_start_time()
"""Since when the database has been there."""
ACTIVITY = table("pg_stat_activity", column("pid"), column("usename"), column("application_name"))
NAMED = "mergesearch "
"""How the names of connections begin."""


class DatabaseExchange:
    """See ``Exchange``: one worker's way to a ``run``. ``say`` tells the user that an operation is tried again.

    Raises UserError where the database cannot be opened.
    """

    def __init__(self, url: str, artifacts: Artifacts, run: str, say: Say = silent) -> None:
        self._url, self._artifacts, self._run, self.say = url, artifacts, run, say
        self._number, self._files = _number(run), DatabaseFiles(run)
        self._called = SETTINGS | {"application_name": f"{NAMED}{uuid4().hex}"}
        open_database(url, say)  # says what is wrong
        self.engine = create_engine(url, pool_pre_ping=True, connect_args=self._called)
        self.attempt, self.check = threading.local(), lambda: None
        self._holding: Connection | None = None  # has the advisory lock, or may take it
        self._turn: int | None = None
        self._ahead = 0.0  # of the database's clock to this process's
        self._do(self._make)

    def _make(self, database: Connection) -> None:
        database.execute(select(func.pg_advisory_xact_lock(_number("tables"))))
        METADATA.create_all(database)
        database.execute(insert(RUNS).values(run=self._run, mark=uuid4().hex, changes=0).on_conflict_do_nothing())
        database.execute(insert(LOCKS).values(run=self._run, holder="", turn=0).on_conflict_do_nothing())

    def close(self) -> None:
        """Closes all connections."""
        self._disconnect()
        self.engine.dispose()

    @patient
    def _do(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Does the work in a transaction, again while it fails for a passing reason."""
        try:
            with self.engine.begin() as database:
                return work(database, *arguments)
        except SQLAlchemyError as error:
            raise StorageInternalError(first_line(error)) from error

    def storage(self, worker: str) -> BaseStorage:
        """The storage of the study, which the worker may change as long as it may change files."""

        def prepare(storage: PatientDatabase) -> None:
            storage.check = lambda: self._do(self._check, worker)
            guard(storage, lambda database: self._check(database, worker))
            set_clock(storage, lambda: time.monotonic() + self._ahead)

        return open_database(self._url, self.say, self._called, prepare)

    def _check(self, database: Connection, worker: str) -> None:
        """Raises LostError where the worker may not change anything; else it may until the transaction ends."""
        mine = (WORKERS.c.run == self._run) & (WORKERS.c.worker == worker) & WORKERS.c.is_living
        if database.scalar(select(WORKERS.c.worker).where(mine).with_for_update(read=True)) is None:
            raise LostError(worker)
        if (turn := self._turn) is not None:
            held = (LOCKS.c.run == self._run) & (LOCKS.c.turn == turn)
            if database.scalar(select(LOCKS.c.turn).where(held).with_for_update(read=True)) is None:
                raise LostError(worker)

    # Workers

    def join(self, worker: str, member: str) -> bool:
        del member  # whoever started it knows it by its name
        self._do(self._join, worker)
        self._sweep()
        return True

    def _join(self, database: Connection, worker: str) -> None:
        new = {"run": self._run, "worker": worker, "application": self._called["application_name"]}
        database.execute(insert(WORKERS).values(**new, is_living=True, is_stopping=False).on_conflict_do_nothing())
        self._check(database, worker)
        self._bury_silent(database)

    def leave(self, worker: str, log: bytes) -> None:
        self._do(self._leave, worker, log)
        self._disconnect()
        self._sweep()

    def _leave(self, database: Connection, worker: str, log: bytes) -> None:
        self._log(database, log)
        self._bury(database, [worker])

    def beat(self, worker: str, log: bytes) -> Pulse:
        now, is_stopping = self._do(self._beat, worker, log)
        self._ahead = now - time.monotonic()
        return Pulse(now, is_stopping, is_ending=False)

    def _beat(self, database: Connection, worker: str, log: bytes) -> tuple[float, bool]:
        mine = (WORKERS.c.run == self._run) & (WORKERS.c.worker == worker) & WORKERS.c.is_living
        told = func.extract("epoch", NOW), WORKERS.c.is_stopping
        found = database.execute(update(WORKERS).where(mine).values(seen=NOW).returning(*told)).one_or_none()
        if found is None:
            raise LostError(worker)
        self._log(database, log)
        self._bury_silent(database)
        return float(found[0]), bool(found[1])

    def _log(self, database: Connection, lines: bytes) -> None:
        if lines:
            text = lines.decode(errors="replace").replace("\0", "\ufffd")
            database.execute(insert(LOG).values(run=self._run, lines=text))

    def _bury_silent(self, database: Connection) -> None:
        """Takes those for dead that were silent for long while the database was there.

        Their connections are ended first: a paused process may hold the lock, or rows that others wait for.
        """
        since = func.greatest(WORKERS.c.seen, UP)
        is_silent = func.extract("epoch", NOW - since) > silence()
        dead = select(WORKERS).where(WORKERS.c.run == self._run, WORKERS.c.is_living, is_silent)
        if found := database.execute(dead).all():
            theirs = ACTIVITY.c.application_name.in_([each.application for each in found])
            mine = ACTIVITY.c.usename == func.current_user()
            database.execute(select(func.pg_terminate_backend(ACTIVITY.c.pid)).where(theirs, mine))
            self._bury(database, [each.worker for each in found])

    def _bury(self, database: Connection, names: Sequence[str]) -> None:
        of_run, of_them = WORKERS.c.run == self._run, WORKERS.c.worker.in_(names)
        database.execute(update(WORKERS).where(of_run, of_them).values(is_living=False))
        held = (LOCKS.c.run == self._run) & LOCKS.c.holder.in_(names)
        database.execute(update(LOCKS).where(held).values(holder="", turn=LOCKS.c.turn + 1))
        database.execute(delete(CLAIMS).where(CLAIMS.c.run == self._run, CLAIMS.c.worker.in_(names)))
        self._files.give_up(database, names)

    def living(self, worker: str) -> list[str]:
        del worker
        living = select(WORKERS.c.worker).where(WORKERS.c.run == self._run, WORKERS.c.is_living)
        return sorted(self._do(lambda database: database.scalars(living).all()))

    def is_dead(self, worker: str, name: str) -> bool:
        return name not in self.living(worker)

    def stop(self, names: Sequence[str]) -> None:
        """Asks workers to stop, each after its trial."""
        them = (WORKERS.c.run == self._run) & WORKERS.c.worker.in_(names)
        self._do(lambda database: database.execute(update(WORKERS).where(them).values(is_stopping=True)))

    def claim(self, worker: str, name: str) -> bool:
        return bool(self._do(self._claim, worker, name))

    def _claim(self, database: Connection, worker: str, name: str) -> bool:
        self._check(database, worker)
        new = insert(CLAIMS).values(run=self._run, name=name, worker=worker)
        database.execute(new.on_conflict_do_nothing())
        owner = select(CLAIMS.c.worker).where(CLAIMS.c.run == self._run, CLAIMS.c.name == name)
        return database.scalar(owner) == worker

    def lines(self, after: int) -> tuple[int, list[str]]:
        """What workers have logged after a number of lines; the number of the last, and the texts."""
        newer = select(LOG.c.id, LOG.c.lines).where(LOG.c.run == self._run, LOG.c.id > after).order_by(LOG.c.id)
        found = self._do(lambda database: database.execute(newer).all())
        return max([after, *(each.id for each in found)]), [each.lines for each in found]

    # The lock

    def take(self, worker: str) -> str | None:
        if self._turn is not None:
            return None
        holder: str | None
        self._turn, holder = self._hold(worker)
        return holder

    @patient
    def _hold(self, worker: str) -> tuple[int | None, str | None]:
        """Takes the lock by a connection that keeps it. Where that fails, the connection ends, and so does the lock."""
        try:
            if self._holding is None:
                self._holding = self.engine.connect()
                self._holding.detach()  # it must end when it is closed
            with self._holding.begin():
                return self._begin_turn(self._holding, worker)
        except BaseException as error:
            self._disconnect()
            if isinstance(error, SQLAlchemyError):
                raise StorageInternalError(first_line(error)) from error
            raise

    def _begin_turn(self, database: Connection, worker: str) -> tuple[int | None, str | None]:
        """The number of this turn; or who has the lock."""
        self._check(database, worker)
        if not database.scalar(select(func.pg_try_advisory_lock(self._number))):
            return None, database.scalar(select(LOCKS.c.holder).where(LOCKS.c.run == self._run)) or "another worker"
        next_one = update(LOCKS).where(LOCKS.c.run == self._run).values(holder=worker, turn=LOCKS.c.turn + 1)
        return database.scalar(next_one.returning(LOCKS.c.turn)), None

    def release(self, worker: str) -> None:
        del worker  # it is the one that took it
        turn, self._turn = self._turn, None
        if turn is None or self._holding is None:
            return
        mine = (LOCKS.c.run == self._run) & (LOCKS.c.turn == turn)
        try:
            with self._holding.begin():
                self._holding.execute(update(LOCKS).where(mine).values(holder=""))
                self._holding.execute(select(func.pg_advisory_unlock(self._number)))
        except SQLAlchemyError:
            self._disconnect()

    def _disconnect(self) -> None:
        if self._holding is not None:
            with suppress(SQLAlchemyError):
                self._holding.close()
            self._holding = None

    # Files

    def changes(self, worker: str, mark: str) -> Changes:
        del worker
        return cast(Changes, self._do(self._files.changes, mark))

    def fetch(self, worker: str, name: str, offset: int, size: int) -> Part | None:
        del worker
        check_name(name)
        missing = ""
        while (found := self._do(self._files.piece, name, offset)) is not None:
            begin = offset - found.begin
            data = self._artifacts.read(found.artifact) if begin < found.piece else b""
            if data is not None:
                return Part(found.version, found.size, data[begin : begin + size])
            if found.artifact == missing:
                where = f"a piece of {name} is not at {self._artifacts.url}"
                raise DamagedFileError(Path(self._run), where, "give all workers the same --artifacts")
            missing = found.artifact  # the file may have been replaced meanwhile
        return None

    def put(self, worker: str, name: str, offset: int, data: bytes) -> None:
        check_name(name)
        artifact = f"{self._run}.{uuid4().hex}"
        piece = {"name": name, "begin": offset, "size": len(data), "artifact": artifact}
        self._do(self._checked, worker, self._files.put, worker, piece)
        self._artifacts.write(artifact, data)

    def commit(self, worker: str, name: str, durable: bool) -> dict[str, str]:
        del durable  # an artifact always is
        check_name(name)
        versions = self._do(self._checked, worker, self._files.commit, worker, name)
        self._sweep()
        return cast(dict[str, str], versions)

    def remove(self, worker: str, name: str) -> None:
        check_name(name)
        self._do(self._checked, worker, self._files.remove, name)
        self._sweep()

    def _checked(self, database: Connection, worker: str, change: Callable[..., Any], *arguments: Any) -> Any:
        self._check(database, worker)
        return change(database, *arguments)

    def _sweep(self) -> None:
        """Removes the artifacts that nothing refers to any more."""
        if names := self._do(self._files.unused):
            for name in names:
                self._artifacts.remove(name)
            self._do(self._files.forget, names)


def _number(run: str) -> int:
    """The number of a run's advisory lock."""
    return int.from_bytes(blake2b(f"{NAMED}{run}".encode(), digest_size=8).digest(), signed=True)
