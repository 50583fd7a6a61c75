"""A run's folder, ``results/runs/NAME``: everything that a run remembers."""

import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.study import Study
from torch import Tensor

from mergesearch.errors import DamagedFileError, UserError
from mergesearch.evaluators import Item
from mergesearch.files import atomic_path, remove
from mergesearch.parsing import read_yaml
from mergesearch.say import Say, silent
from mergesearch.search.study.config_changes import another_config, forbidden_changes
from mergesearch.search.study.database import open_database
from mergesearch.search.study.direction import Direction
from mergesearch.search.study.journal import open_journal
from mergesearch.search.study.json_file import Content, read_json
from mergesearch.search.study.lock_test import check_locks, check_others
from mergesearch.search.study.locks import file_lock, held_lock
from mergesearch.search.study.progress import NOW, Doing, workers_in
from mergesearch.search.study.reads import with_known_trials
from mergesearch.search.study.scores import load_scores, save_scores
from mergesearch.search.study.stop import FILE as STOP
from mergesearch.search.study.stop import is_asked_to_stop
from mergesearch.search.study.workers import Workers

CONFIG = "config.yml"
JOURNAL = "study.log"
LOCK = "lock"
LOOKS = "test_looks.json"
SCORES = "scores"
FACTS = ("gradient.json", "identity.json", "environment.json", "progress.json", "track.json")
RECOVERED = "recovered"
"""The folder with the weights of recovered candidates."""
DERIVED = (SCORES, "answers", "artifacts", "attempts", "batches.json", *FACTS, "now", RECOVERED)
"""What a run leaves before its first trial."""
LOOKS_REMEDY = (
    "it counts how often the test items were looked at: bring it back from a copy, or delete it and know that "
    "the verdict no longer counts the looks before"
)


class RunFolder:
    """The folder of one run: resolved config, study, per-item scores, best recipe, verdict, report, model.

    ``worker`` is this process's name among the ``workers`` of the run; empty until it has joined. ``say`` tells what
    the run waits for.
    """

    def __init__(self, path: Path, say: Say = silent) -> None:
        self.path = path
        self._say = say
        self.workers = Workers(path / "workers")
        self.worker = ""

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the run's lock, which one worker at a time can hold; see ``locks`` for file systems of several hosts.

        Asking, telling, recovering and concluding happen under it. The lock ends with the process, however that ends.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with held_lock(self.path / LOCK, self._say):
            yield

    @property
    def is_writable(self) -> bool:
        """Whether this user may work on the run; False for another user's folder, and on a read-only file system."""
        files = [self.path, *(self.path / name for name in (JOURNAL, CONFIG, LOCK, SCORES, "workers"))]
        return all(os.access(file, os.W_OK) for file in files if file.exists())

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Holds the run's lock where this user may; what is only read needs none."""
        with self.locked() if self.is_writable else nullcontext():
            yield

    @contextmanager
    def joined(self) -> Iterator[list[str]]:
        """Makes this process a worker of the run until the context ends; gives the names of the other workers.

        Raises UserError where the locks of the folder's file system do not hold.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        check_locks(self.path)
        with ExitStack() as stack:
            with self.locked():
                check_others(self.path)
                others = self.clean_up()
                self.worker = stack.enter_context(self.workers.joined())
            yield others
        with self.locked():
            self.clean_up()

    def clean_up(self) -> list[str]:
        """The living workers. Where there are none, removes the temporary files that a killed process left.

        To be called under the lock.
        """
        workers = self.workers.living()
        if not workers:
            for suffix in ("tmp", "old"):
                for leftover in list(self.path.rglob(f".*.{suffix}")):
                    remove(leftover)
            for name in (NOW, STOP):
                remove(self.path / name)
        return workers

    def check_read(self, resolved: Mapping[str, Any]) -> None:
        """Checks that a run that this user may only read was begun with this config, and needs no more trials."""
        before = self.recorded_config() or {}
        for keys, old, new in forbidden_changes(before, resolved):
            raise another_config(self.path, keys, old, new)
        if before.get("search", {}).get("trials", 0) < resolved.get("search", {}).get("trials", 0):
            raise UserError(f"{self.path}: cannot be gone on with: this user may only read it")

    @property
    def storage(self) -> str | None:
        """The address of the study's database, as the recorded config says; None for the folder's journal."""
        search = (self.recorded_config() or {}).get("search") or {}
        return search.get("storage")

    def recorded_config(self) -> dict[str, Any] | None:
        """The config as a run of an earlier version records it, in a file alone; None for a new run.

        Raises UserError where the file is damaged.
        """
        if not (self.path / CONFIG).exists():
            return None
        content = read_yaml(self.path / CONFIG)
        if not isinstance(content, dict):
            raise DamagedFileError(self.path / CONFIG, "is damaged", "bring it back from a copy")
        return content

    def forget(self) -> None:
        """Removes what the folder has besides config, study and looks, for a run of which nothing was scored."""
        for name in DERIVED:
            remove(self.path / name)
            self.share(self.path / name)

    def share(self, path: Path, durable: bool = True) -> None:
        """Lets the other workers know a file as it is now, or that this file or folder is gone.

        Of other changes they know once the lock is released. Here all workers have the folder itself; see ``Replica``.
        """

    def claim(self, name: str) -> AbstractContextManager[object]:
        """For what one worker at a time does, which ends with the worker. Raises Timeout where another does it."""
        return file_lock(self.path / name).acquire(blocking=False)

    @property
    def is_stopping(self) -> bool:
        """Whether this worker was asked to stop after its trial."""
        return is_asked_to_stop(self.path, self.worker)

    def others(self) -> list[Doing]:
        """The other living workers, and what each does."""
        return workers_in(self.path, besides=self.worker)

    def open_study(self, url: str | None, objectives: Mapping[str, Direction] | None = None) -> Study:
        """The run's study, new or as it was left, from the folder's journal or from the database at ``url``.

        ``objectives`` gives the direction of each objective by its name; None for a single one, which is maximized.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        directions: list[Direction] = list(objectives.values()) if objectives else ["maximize"]
        storage = with_known_trials(self._open_storage(url))
        try:
            study = optuna.load_study(study_name=self.path.name, storage=storage)
        except KeyError:
            study = optuna.create_study(
                study_name=self.path.name, storage=storage, directions=directions, load_if_exists=True
            )
            if not objectives:
                _name_metrics(study, ["objective"])
        # Another config may have left a study of another number of objectives, which open_run judges.
        if objectives and study.metric_names is None and len(study.directions) == len(objectives):
            _name_metrics(study, list(objectives))
        return study

    def _open_storage(self, url: str | None) -> BaseStorage:
        return open_database(url, self._say) if url else open_journal(self.path / JOURNAL, self._say)

    def save_scores(
        self,
        name: str,
        scores: Mapping[str, Tensor],
        items: Mapping[str, Sequence[Item]],
        margins: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        """Writes the per-item scores and margins of one candidate under a name; see ``scores.save_scores``."""
        file = self._file_of_scores(name)
        save_scores(file, scores, items, margins)
        self.share(file)

    def load_scores(self, name: str, items: Mapping[str, Sequence[Item]] | None = None) -> dict[str, Tensor]:
        """The scores that ``save_scores`` wrote under the name; see ``scores.load_scores``."""
        return load_scores(self.scores_file(name), items)[0]

    def load_scores_and_margins(
        self, name: str, items: Mapping[str, Sequence[Item]], partial: bool = False
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The scores and the margins that ``save_scores`` wrote under the name; see ``scores.load_scores``."""
        return load_scores(self.scores_file(name), items, partial)

    def has_scores(self, name: str) -> bool:
        """Whether there are scores under the name."""
        return self.scores_file(name).exists()

    def remove_scores(self, name: str) -> None:
        """Removes the scores under the name, where there are any."""
        self._file_of_scores(name).unlink(missing_ok=True)
        self.share(self._file_of_scores(name))

    def scores_names(self) -> list[str]:
        """The names of all scores, sorted."""
        return sorted(file.stem for file in (self.path / SCORES).glob("*.parquet"))

    def scores_file(self, name: str) -> Path:
        """The file of the scores under the name."""
        return self._file_of_scores(name)

    def _file_of_scores(self, name: str) -> Path:
        return self.path / SCORES / f"{name}.parquet"

    def read_json(self, name: str, kind: type[Content], remedy: str) -> Content | None:
        """A JSON file of the folder; see ``json_file.read_json``."""
        return read_json(self.path / name, kind, remedy)

    def write_json(self, name: str, content: Any, durable: bool = True) -> None:
        """Writes a JSON file of the folder atomically; ``durable``: so that a loss of power leaves it whole."""
        with atomic_path(self.path / name, durable) as temporary:
            temporary.write_text(_json(content) + "\n", encoding="utf-8")
        self.share(self.path / name, durable)

    def note_look(self, look: Mapping[str, Any]) -> int:
        """Records a look at the test items before it happens; returns the number of other looks before this one.

        A look is what it decides on. The same look again, as after a kill, counts once, however many ``trials`` the run
        had.
        """
        looks = self.read_json(LOOKS, list[dict[str, Any]], LOOKS_REMEDY) or []
        decisions = [_decision(each) for each in looks]
        if _decision(look) not in decisions:
            self.write_json(LOOKS, [*looks, dict(look)])
        return [*decisions, _decision(look)].index(_decision(look))


def _name_metrics(study: Study, names: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(names)


def _decision(look: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in look.items() if key != "trials"}


def _json(content: Any) -> str:
    """Readable JSON; in ASCII where it has lone surrogates, which no encoding has."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(content, indent=2)
    return text
