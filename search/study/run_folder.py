"""A run's folder, ``results/runs/NAME``: everything that a run remembers."""

import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any

import optuna
from optuna.study import Study
from optuna.trial import TrialState
from torch import Tensor

from mergesearch.errors import DamagedFileError, UserError
from mergesearch.evaluators import Item
from mergesearch.files import atomic_path, has_text, remove, write_text
from mergesearch.parsing import dump_yaml, read_yaml
from mergesearch.say import Say, silent
from mergesearch.search.study import trials as t
from mergesearch.search.study.config_changes import another_config, forbidden_changes
from mergesearch.search.study.database import open_database, without_password
from mergesearch.search.study.direction import Direction
from mergesearch.search.study.journal import open_journal
from mergesearch.search.study.json_file import Content, read_json
from mergesearch.search.study.locks import held_lock
from mergesearch.search.study.progress import NOW
from mergesearch.search.study.scores import load_scores, save_scores
from mergesearch.search.study.stop import FILE as STOP
from mergesearch.search.study.workers import Workers

CONFIG = "config.yml"
JOURNAL = "study.log"
LOOKS = "test_looks.json"
FACTS = ("gradient.json", "identity.json", "environment.json", "progress.json", "track.json")
DERIVED = ("scores", "answers", "artifacts", "attempts", "batches.json", *FACTS, "now")
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
        with held_lock(self.path / "lock", self._say):
            yield

    @property
    def is_writable(self) -> bool:
        """Whether this user may work on the run; False for another user's folder, and on a read-only file system."""
        files = [self.path, *(self.path / name for name in (JOURNAL, CONFIG, "lock", "scores", "workers"))]
        return all(os.access(file, os.W_OK) for file in files if file.exists())

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Holds the run's lock where this user may; what is only read needs none."""
        with self.locked() if self.is_writable else nullcontext():
            yield

    @contextmanager
    def joined(self) -> Iterator[list[str]]:
        """Makes this process a worker of the run until the context ends; gives the names of the other workers."""
        with ExitStack() as stack:
            with self.locked():
                others = self._clean_up()
                self.worker = stack.enter_context(self.workers.joined())
            yield others
        with self.locked():
            self._clean_up()

    def _clean_up(self) -> list[str]:
        """The living workers. Where there are none, removes the temporary files that a killed process left."""
        workers = self.workers.living()
        if not workers:
            for suffix in ("tmp", "old"):
                for leftover in list(self.path.rglob(f".*.{suffix}")):
                    remove(leftover)
            for name in (NOW, STOP):
                remove(self.path / name)
        return workers

    def open_run(
        self, resolved: Mapping[str, Any], storage: str | None, objectives: Mapping[str, Direction] | None = None
    ) -> Study:
        """The run's study, new or as it was left; records the ``resolved`` config.

        ``storage`` and ``objectives`` are those of ``open_study``. Raises UserError where the run was begun with
        another config, or its study is not where the config says. Where nothing was ever scored, it begins anew.
        """
        study = self.open_study(storage, objectives)
        before = study.user_attrs.get(t.CONFIG) or self._recorded_config()
        if before and any(forbidden_changes(before, resolved)):
            self._check_unused(study, before, resolved)
            _delete(study)
            self.forget()
            study, before = self.open_study(storage, objectives), None
        study = self._unless_hopeless(study) or self.open_study(storage, objectives)
        self._check_scores(study, (before or {}).get("search", {}).get("storage"))
        if not has_text(self.path / CONFIG, dump_yaml(resolved)):
            write_text(self.path / CONFIG, dump_yaml(resolved))
        if study.user_attrs.get(t.CONFIG) != _as_json(resolved):
            study.set_user_attr(t.CONFIG, _as_json(resolved))
        return study

    def check_read(self, resolved: Mapping[str, Any]) -> None:
        """Checks that a run that this user may only read was begun with this config, and needs no more trials."""
        before = self._recorded_config() or {}
        for keys, old, new in forbidden_changes(before, resolved):
            raise another_config(self.path, keys, old, new)
        if before.get("search", {}).get("trials", 0) < resolved.get("search", {}).get("trials", 0):
            raise UserError(f"{self.path}: cannot be gone on with: this user may only read it")

    @property
    def storage(self) -> str | None:
        """The address of the study's database, as the recorded config says; None for the folder's journal."""
        search = (self._recorded_config() or {}).get("search") or {}
        return search.get("storage")

    def _recorded_config(self) -> dict[str, Any] | None:
        """The config as a run of an earlier version records it, in a file alone; None for a new run.

        Raises UserError where the file is damaged.
        """
        if not (self.path / CONFIG).exists():
            return None
        content = read_yaml(self.path / CONFIG)
        if not isinstance(content, dict):
            raise DamagedFileError(self.path / CONFIG, "is damaged", "bring it back from a copy")
        return content

    def _check_unused(self, study: Study, old: Any, new: Mapping[str, Any]) -> None:
        """Raises UserError where a candidate was scored with the ``old`` config, or another worker is at the run."""
        scored = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        is_saved = any((self.path / "scores").glob(t.scores_name(None)))
        if scored or is_saved or set(self.workers.living()) - {self.worker}:
            raise another_config(self.path, *next(forbidden_changes(old, new)))

    def forget(self) -> None:
        """Removes what the folder has besides config, study and looks, for a run of which nothing was scored."""
        for name in DERIVED:
            remove(self.path / name)

    def _unless_hopeless(self, study: Study) -> Study | None:
        """The study; None where all its candidates failed and no other worker is at it: then it was removed."""
        failed = study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        if not t.finished(study) or len(failed) < len(study.get_trials(deepcopy=False)):
            return study
        if set(self.workers.living()) - {self.worker}:
            return study
        _delete(study)
        return None

    def open_study(self, url: str | None, objectives: Mapping[str, Direction] | None = None) -> Study:
        """The run's study, new or as it was left, from the folder's journal or from the database at ``url``.

        ``objectives`` gives the direction of each objective by its name; None for a single one, which is maximized.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        directions: list[Direction] = list(objectives.values()) if objectives else ["maximize"]
        storage = open_database(url, self._say) if url else open_journal(self.path / JOURNAL, self._say)
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

    def _check_scores(self, study: Study, earlier_storage: str | None) -> None:
        """Raises UserError where this folder lacks scores of the study's trials, or the study lacks their trials."""
        completed, is_saved = t.completed(study), any((self.path / "scores").glob(t.scores_name(None)))
        if completed and not is_saved:
            raise UserError(
                f"{self.path}: the study has trial {completed[0].number}, but no per-item scores are here; workers on "
                "several hosts must share the results folder (--results), whatever the storage is, and runs that "
                "share a database need different names (--name)"
            )
        if is_saved and not study.get_trials(deepcopy=False):
            begun = "without a storage"
            if earlier_storage:
                begun = f"with storage: {without_password(earlier_storage)}"
            lost = f", and its {JOURNAL} is lost or empty: bring it back from a copy" if not earlier_storage else ""
            raise UserError(
                f"{self.path}: has scores of trials that are not in this storage: the run was begun {begun}{lost}; use "
                "that storage, or give the new run another name with --name"
            )

    def save_scores(
        self,
        name: str,
        scores: Mapping[str, Tensor],
        items: Mapping[str, Sequence[Item]],
        margins: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        """Writes the per-item scores and margins of one candidate under a name; see ``scores.save_scores``."""
        save_scores(self.scores_file(name), scores, items, margins)

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
        self.scores_file(name).unlink(missing_ok=True)

    def scores_names(self) -> list[str]:
        """The names of all scores, sorted."""
        return sorted(file.stem for file in (self.path / "scores").glob("*.parquet"))

    def scores_file(self, name: str) -> Path:
        """The file of the scores under the name."""
        return self.path / "scores" / f"{name}.parquet"

    def read_json(self, name: str, kind: type[Content], remedy: str) -> Content | None:
        """A JSON file of the folder; see ``json_file.read_json``."""
        return read_json(self.path / name, kind, remedy)

    def write_json(self, name: str, content: Any, durable: bool = True) -> None:
        """Writes a JSON file of the folder atomically; ``durable``: so that a loss of power leaves it whole."""
        with atomic_path(self.path / name, durable) as temporary:
            temporary.write_text(_json(content) + "\n", encoding="utf-8")

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


def _delete(study: Study) -> None:
    # A study has no other name for its storage, which knows the study in this process already.
    optuna.delete_study(study_name=study.study_name, storage=study._storage)


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


def _as_json(config: Mapping[str, Any]) -> Any:
    """A config as a study gives it back."""
    return json.loads(json.dumps(config))
