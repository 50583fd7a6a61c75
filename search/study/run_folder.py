"""A run's folder and its study: all that a run remembers."""

import fcntl
import json
import os
import re
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import optuna
import torch
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock
from optuna.study import Study
from torch import Tensor

from mergesearch.errors import UserError
from mergesearch.evaluators import Item
from mergesearch.files import atomic_path, remove, write_text
from mergesearch.parsing import dump_yaml, read_yaml
from mergesearch.search.config import Config
from mergesearch.search.problem.objective import Direction
from mergesearch.search.study import trials as t
from mergesearch.search.study.workers import Workers

CONFIG = "config.yml"
JOURNAL = "study.log"
LOOKS = "test_looks.json"
MAY_CHANGE = {
    "search": ("trials", "timeout", "patience", "target", "storage"),
    "output": ("model",),
    "soup": ("kinds",),
}
"""What another call may say otherwise about the same run."""
TABLES_RETRIED = (0.0, 0.2, 0.5, 1.0, 2.0)
"""Seconds before each try to open a database whose tables another process makes."""


class RunFolder:
    """``results/runs/NAME``: resolved config, study, per-item scores, best recipe, verdict, report, model.

    ``worker`` is this process's name among the ``workers`` of the run; none before it has joined.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.workers = Workers(path / "workers")
        self.worker = ""

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder, once no other worker does; the lock goes with the process, however it ends.

        For what only one worker at a time may do: asking, telling, recovering, concluding. On several hosts the file
        system's locks must hold across them, as those of NFS 4, Lustre (with ``flock``) and GPFS do.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    @contextmanager
    def joined(self) -> Iterator[list[str]]:
        """Makes this process a worker of the run; gives the names of the others that are at it."""
        with ExitStack() as stack:
            with self.locked():
                others = self._tidied()
                self.worker = stack.enter_context(self.workers.joined())
            yield others
        with self.locked():
            self._tidied()

    def _tidied(self) -> list[str]:
        """The other workers; where there is none, what a killed process had half written is removed."""
        others = self.workers.living()
        if not others:
            self._remove_leftovers()
        return others

    def _remove_leftovers(self) -> None:
        for suffix in ("tmp", "old"):
            for leftover in list(self.path.rglob(f".*.{suffix}")):
                remove(leftover)

    def open_run(self, config: Config, objectives: Mapping[str, Direction] | None = None) -> Study:
        """The run's study, and its resolved config written down.

        Raises UserError where the run was begun with another config, or its study is not where the config says.
        """
        file, resolved = self.path / CONFIG, config.dump()
        before = read_yaml(file) if file.exists() else None
        if before is not None:
            _check_unchanged(before, resolved, self.path)
        study = self.open_study(config.search.storage, objectives)
        self._check_scores(study, (before or {}).get("search", {}).get("storage"))
        write_text(file, dump_yaml(resolved))
        return study

    def open_study(self, url: str | None, objectives: Mapping[str, Direction] | None = None) -> Study:
        """The run's study, new or as it was left, in the folder's journal or in the database at ``url``.

        ``objectives``: the direction of each by its name, where there are several.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = _database(url) if url else self._journal()
        directions: list[Direction] = list(objectives.values()) if objectives else ["maximize"]
        study = optuna.create_study(
            storage=storage, study_name=self.path.name, directions=directions, load_if_exists=True
        )
        if objectives and study.metric_names is None:
            _name(study, objectives)
        return study

    def _journal(self) -> BaseStorage:
        file = self.path / JOURNAL
        file.touch()
        return JournalStorage(JournalFileBackend(str(file), JournalLock(file)))

    def _check_scores(self, study: Study, storage: str | None) -> None:
        """Raises UserError where the study's scores lie in another folder, or the folder's study elsewhere."""
        missing = [trial.number for trial in t.completed(study) if not self.has_scores(t.scores_name(trial.number))]
        if missing:
            raise UserError(
                f"{self.path}: the study has trial {missing[0]}, but its per-item scores are not here; workers on "
                "several hosts must share the results folder (--results), whatever the storage, and runs that share "
                "a database need names of their own (--name)"
            )
        if not study.get_trials(deepcopy=False) and any((self.path / "scores").glob(t.scores_name(None))):
            begun = f"with storage: {_shown(storage)}" if storage else "without a storage, with its journal here"
            raise UserError(
                f"{self.path}: has the scores of trials that this storage knows nothing of: the run was begun {begun}; "
                "give the same, or the new run another --name"
            )

    def save_scores(self, name: str, scores: Mapping[str, Tensor], items: Mapping[str, Sequence[Item]]) -> None:
        """Writes one candidate's per-item scores as a Parquet table (task, item, part, score).

        Parts number the columns of tasks whose scores are [items, k]; those of others, [items], have none.
        """
        import pyarrow
        from pyarrow import parquet

        rows = [
            {"task": task, "item": item.id, "part": part, "score": score}
            for task in scores
            for item, found in zip(items[task], scores[task].tolist(), strict=True)
            for part, score in _parts(found)
        ]
        kinds = {
            "task": pyarrow.string(),
            "item": pyarrow.string(),
            "part": pyarrow.int32(),
            "score": pyarrow.float64(),
        }
        table = pyarrow.Table.from_pylist(rows, pyarrow.schema(kinds))
        with atomic_path(self._scores_file(name)) as temporary:
            parquet.write_table(table, temporary)

    def load_scores(self, name: str) -> dict[str, Tensor]:
        """What ``save_scores`` wrote, in the order in which it was given; tasks without an item are left out."""
        from pyarrow import parquet

        columns = parquet.read_table(self._scores_file(name)).to_pydict()
        scores: dict[str, list[float]] = {}
        parts: dict[str, int | None] = {}
        for task, part, score in zip(columns["task"], columns["part"], columns["score"], strict=True):
            scores.setdefault(task, []).append(score)
            parts[task] = part
        return {task: _of_parts(values, parts[task]) for task, values in scores.items()}

    def has_scores(self, name: str) -> bool:
        return self._scores_file(name).exists()

    def _scores_file(self, name: str) -> Path:
        return self.path / "scores" / f"{name}.parquet"

    def read_json(self, name: str) -> Any:
        """A JSON file of the folder; None where it is not there."""
        file = self.path / name
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None

    def write_json(self, name: str, content: Any) -> None:
        write_text(self.path / name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def note_look(self, look: Mapping[str, Any]) -> int:
        """Writes down, before it happens, that the test items are looked at; how often they were before."""
        looks = self.read_json(LOOKS) or []
        self.write_json(LOOKS, [*looks, dict(look)])
        return len(looks)


def _name(study: Study, objectives: Iterable[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(objectives))


def _parts(found: float | list[float]) -> Iterable[tuple[int | None, float]]:
    """An item's score, or its scores, with their numbers."""
    return enumerate(found) if isinstance(found, list) else [(None, found)]


def _of_parts(values: Sequence[float], last: int | None) -> Tensor:
    """[items], or [items, last + 1]."""
    scores = torch.tensor(values, dtype=torch.float64)
    return scores if last is None else scores.reshape(-1, last + 1)


def _database(url: str) -> BaseStorage:
    """Connections are tried before each use: those that the server has closed are opened anew.

    Of two processes that make the tables of a new database at the same moment one fails, and tries again.
    """
    failed: Exception | None = None
    for pause in TABLES_RETRIED:
        time.sleep(pause)
        try:
            return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
        except Exception as error:
            failed = error
        if not any(word in str(failed).lower() for word in ("unique", "already exists")):
            break
    raise UserError(f"storage: cannot open {_shown(url)!r}: {_why(failed)}") from None


def _why(error: Exception | None) -> str:
    driver = "; the driver of PostgreSQL is `pip install psycopg[binary]`, with postgresql+psycopg://..."
    return f"{str(error).splitlines()[0]}{driver if isinstance(error, ImportError) else ''}"


def _shown(url: str) -> str:
    """The address without its password."""
    return re.sub(r"(://[^/@]*:)[^/@]*@", r"\1***@", url)


class JournalLock(BaseJournalFileLock):
    """The lock of the journal itself, which goes with the process that holds it, however that ends.

    Whoever takes it drops a last line that was not written to its end: an append behind it would spoil the journal for
    good. Optuna's own lock is a file, which a killed process leaves behind.
    """

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._handle: IO[bytes] | None = None

    def acquire(self) -> bool:
        handle = self._journal.open("r+b")
        fcntl.flock(handle, fcntl.LOCK_EX)
        _cut_torn_tail(handle)
        self._handle = handle
        return True

    def release(self) -> None:
        if self._handle:
            self._handle.close()


def _cut_torn_tail(journal: IO[bytes]) -> None:
    end = journal.seek(0, os.SEEK_END)
    whole, block = end, 1 << 16
    while whole > 0:
        begin = max(0, whole - block)
        journal.seek(begin)
        last = journal.read(whole - begin).rfind(b"\n")
        whole = begin + last + 1
        if last >= 0:
            break
    if whole < end:
        journal.truncate(whole)


def _check_unchanged(old: Any, new: dict[str, Any], path: Path) -> None:
    for where, before, after in _differences(old, new, ()):
        section, *rest = where
        if rest and rest[0] in MAY_CHANGE.get(section, ()):
            continue
        raise UserError(
            f"{path}: was begun with another config: {'.'.join(where)} was {before!r}, now {after!r}; "
            "give the new run another name with --name"
        )


def _differences(old: Any, new: Any, where: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from _differences(old.get(key), new.get(key), (*where, str(key)))
    elif old != new:
        yield where, old, new
