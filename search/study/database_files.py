"""The files of a run by the tables of a database: which there are, and of which artifacts each is made."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from sqlalchemy import ColumnElement, Connection, Table, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from mergesearch.search.study.exchange import Changes
from mergesearch.search.study.tables import FILES, PIECES, RUNS


class DatabaseFiles:
    """The files of a ``run``. Each call is a part of a transaction."""

    def __init__(self, run: str) -> None:
        self._run = run

    def changes(self, database: Connection, mark: str) -> Changes:
        """See ``Exchange.changes``."""
        now = database.execute(select(RUNS.c.mark, RUNS.c.changes).where(RUNS.c.run == self._run)).one()
        name, _, number = mark.partition(" ")
        is_known = name == now.mark
        since = select(FILES).where(FILES.c.run == self._run, FILES.c.change > (int(number) if is_known else 0))
        files = since if is_known else since.where(FILES.c.size.is_not(None))
        found = {each.name: each.version if each.size is not None else None for each in database.execute(files)}
        return Changes(f"{now.mark} {now.changes}", found, not is_known)

    def piece(self, database: Connection, name: str, offset: int) -> Any:
        """The piece of a file that has this byte, or the last one; None where there is no file."""
        of_version = (
            (FILES.c.run == PIECES.c.run) & (FILES.c.name == PIECES.c.name) & (FILES.c.version == PIECES.c.version)
        )
        wanted = select(FILES.c.version, FILES.c.size, PIECES.c.artifact, PIECES.c.begin, PIECES.c.size.label("piece"))
        of_file = FILES.c.run == self._run, FILES.c.name == name, PIECES.c.begin <= offset
        found = wanted.join(PIECES, of_version).where(*of_file).order_by(PIECES.c.begin.desc()).limit(1)
        return database.execute(found).one_or_none()

    def put(self, database: Connection, worker: str, piece: Mapping[str, Any]) -> None:
        """Puts a piece aside, in place of earlier ones from there on."""
        earlier = (PIECES.c.worker == worker) & (PIECES.c.name == piece["name"]) & (PIECES.c.begin >= piece["begin"])
        database.execute(update(PIECES).where(PIECES.c.run == self._run, earlier).values(worker=None))
        database.execute(
            insert(PIECES)
            .values(run=self._run, worker=worker, **piece)
            .on_conflict_do_update(index_elements=["artifact"], set_={"worker": worker})
        )

    def commit(self, database: Connection, worker: str, unit: str) -> dict[str, str]:
        """See ``Exchange.commit``."""
        aside = (PIECES.c.run == self._run) & (PIECES.c.worker == worker) & within(PIECES, unit)
        sizes = select(PIECES.c.name, func.sum(PIECES.c.size)).where(aside).group_by(PIECES.c.name)
        if files := database.execute(sizes).all():  # else an earlier answer was lost
            change = self.remove(database, unit)
            for name, size in files:
                new = {"version": f"{change}-{uuid4().hex[:12]}", "change": change, "size": size}
                row = insert(FILES).values(run=self._run, name=name, **new)
                database.execute(row.on_conflict_do_update(index_elements=["run", "name"], set_=new))
                placed = {"worker": None, "version": new["version"]}
                database.execute(update(PIECES).where(aside, PIECES.c.name == name).values(**placed))
        there = select(FILES.c.name, FILES.c.version).where(FILES.c.run == self._run, within(FILES, unit))
        return {row.name: row.version for row in database.execute(there.where(FILES.c.size.is_not(None)))}

    def remove(self, database: Connection, unit: str) -> int:
        """Takes away a file or folder. Gives the number of this change."""
        counted = update(RUNS).where(RUNS.c.run == self._run).values(changes=RUNS.c.changes + 1)
        change = int(database.scalar(counted.returning(RUNS.c.changes)) or 0)
        there = FILES.c.run == self._run, within(FILES, unit), FILES.c.size.is_not(None)
        database.execute(update(FILES).where(*there).values(size=None, change=change))
        pieces = PIECES.c.run == self._run, within(PIECES, unit), PIECES.c.version.is_not(None)
        database.execute(update(PIECES).where(*pieces).values(version=None))
        return change

    def give_up(self, database: Connection, workers: Sequence[str]) -> None:
        """Lets go of what workers have put aside."""
        aside = (PIECES.c.run == self._run) & PIECES.c.worker.in_(workers)
        database.execute(update(PIECES).where(aside).values(worker=None))

    def unused(self, database: Connection) -> Sequence[str]:
        """The artifacts that nothing refers to any more."""
        of_none = (PIECES.c.run == self._run) & PIECES.c.worker.is_(None) & PIECES.c.version.is_(None)
        return database.scalars(select(PIECES.c.artifact).where(of_none)).all()

    def forget(self, database: Connection, artifacts: Sequence[str]) -> None:
        """Forgets artifacts that were removed."""
        database.execute(delete(PIECES).where(PIECES.c.artifact.in_(artifacts)))


def within(rows: Table, unit: str) -> ColumnElement[bool]:
    """The rows of a file, or of all files of a folder."""
    return or_(rows.c.name == unit, rows.c.name.startswith(f"{unit}/", autoescape=True))
