"""A folder that follows a run whose files are elsewhere, for people and commands of this host.

To them it is the run's folder, though nobody works in it: it has all files, and it stands for the living workers, which
`mergesearch status` and `mergesearch stop` so find. Commands of one host may share it.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import Timeout
from optuna.exceptions import StorageInternalError

from mergesearch.beside import beside
from mergesearch.errors import UserError
from mergesearch.files import remove
from mergesearch.search.study.database_exchange import DatabaseExchange
from mergesearch.search.study.exchange import LOG, ArtifactError
from mergesearch.search.study.failures import stopped_by
from mergesearch.search.study.json_file import read_json
from mergesearch.search.study.locks import held_lock
from mergesearch.search.study.stop import is_asked_to_stop
from mergesearch.search.study.transfer import bring
from mergesearch.search.study.workers import Workers

FILE, LOCK = "mirror.json", "mirror.lock"
SECONDS = 3.0
"""From one look at what is new to the next."""

PASSING = (OSError, UserError, StorageInternalError, ArtifactError)
"""How a look at what is new may fail."""


@dataclass
class _Seen:
    """What has come here: up to which mark and line of the log, and version, time and size of each file."""

    mark: str = ""
    line: int = 0
    files: dict[str, tuple[str, int, int]] = field(default_factory=dict)


class Mirror:
    """The ``folder`` that follows a run, ``without`` the files whose names begin so."""

    def __init__(self, exchange: DatabaseExchange, folder: Path, without: tuple[str, ...] = ()) -> None:
        self._exchange, self._folder, self._without = exchange, folder, without
        self._workers = Workers(folder / "workers")
        self._held: dict[str, ExitStack] = {}

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Follows the run until the context ends, and then has all that there is."""
        try:
            with beside(self._follow):
                yield
        except BaseException:
            with suppress(*PASSING):  # what ended the run is what counts
                self.update()
            raise
        finally:
            self._stand_for([])
        try:
            self.update()
        except Exception as error:
            raise stopped_by(error, self._folder) or error from error

    def _follow(self, is_over: threading.Event) -> None:
        while not is_over.is_set():
            with suppress(*PASSING):  # the last look says what is wrong
                self.update()
                self._pass_on()
            is_over.wait(SECONDS)

    def update(self) -> None:
        """Brings what is new or changed. Raises StorageInternalError, ArtifactError or UserError where it cannot."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with held_lock(self._folder / LOCK, is_short=True):
            seen = read_json(self._folder / FILE, _Seen, "delete it") or _Seen()
            self._bring(seen)
            self._bring_log(seen)
            (self._folder / FILE).write_text(json.dumps(asdict(seen)) + "\n")

    def _bring(self, seen: _Seen) -> None:
        changes = self._exchange.changes("", seen.mark)
        gone = seen.files.keys() - changes.versions.keys() if changes.is_whole else ()
        for name, version in {**dict.fromkeys(gone), **changes.versions}.items():
            file = self._folder / name
            if version is None:
                remove(file)
                seen.files.pop(name, None)
            elif not name.startswith(self._without) and seen.files.get(name) != (version, *_stamp(file)):
                found = bring(self._exchange, "", name, file)
                if found:
                    seen.files[name] = (found.version, *_stamp(file))
        seen.mark = changes.mark

    def _bring_log(self, seen: _Seen) -> None:
        seen.line, texts = self._exchange.lines(seen.line)
        if texts:
            with (self._folder / LOG).open("a", encoding="utf-8") as log:
                log.writelines(texts)

    def _pass_on(self) -> None:
        """Stands for the living workers, and tells them to stop where somebody asked them here."""
        living = self._exchange.living("")
        self._stand_for(living)
        if asked := [name for name in living if is_asked_to_stop(self._folder, name)]:
            self._exchange.stop(asked)

    def _stand_for(self, living: list[str]) -> None:
        for name in self._held.keys() - set(living):
            self._held.pop(name).close()
        self._workers.folder.mkdir(parents=True, exist_ok=True)
        for name in set(living) - self._held.keys():
            with suppress(Timeout), ExitStack() as stack:  # another process here stands for it
                stack.enter_context(self._workers.held(name, waits=False))
                self._held[name] = stack.pop_all()


def _stamp(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size
