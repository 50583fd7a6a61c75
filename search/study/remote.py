"""The workers and the journal of a run whose folder is elsewhere, by its coordinator."""

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from mergesearch.errors import DamagedFileError
from mergesearch.search.study.exchange import Entry, Exchange, JournalExchange
from mergesearch.search.study.journal import Backend
from mergesearch.search.study.workers import Workers


class RemoteWorkers(Workers):
    """The workers of a run, as the coordinator knows them. ``worker`` gives this one's name."""

    def __init__(self, exchange: Exchange, worker: Callable[[], str]) -> None:
        super().__init__(Path())
        self._exchange, self._worker = exchange, worker
        self._ahead = 0.0

    def living(self) -> list[str]:
        """See ``Workers.living``."""
        return self._exchange.living(self._worker())

    def is_dead(self, name: str) -> bool:
        """See ``Workers.is_dead``."""
        return self._exchange.is_dead(self._worker(), name)

    def is_living(self, name: str) -> bool:
        """See ``Workers.is_living``."""
        return bool(name) and name in self.living()

    def now(self) -> float:
        """See ``Workers.now``: by the coordinator's clock, whatever this host's says."""
        return time.monotonic() + self._ahead

    def set_clock(self, now: float) -> None:
        """Takes note of the coordinator's time."""
        self._ahead = now - time.monotonic()


class RemoteJournal(Backend):
    """The study's journal, whose entries the coordinator reads and appends. ``worker`` gives this worker's name."""

    def __init__(self, exchange: JournalExchange, worker: Callable[[], str], folder: Path) -> None:
        self._exchange, self._worker, self._folder = exchange, worker, folder
        self._count = 0
        self._answer: Sequence[Entry] | None = None

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The entries from this number on. Those that ``append_logs`` was answered with are not asked for again."""
        answer, self._answer = self._answer, None
        if answer is None or log_number_from != self._count:
            self._count = log_number_from
            answer = self._exchange.entries(self._worker(), self._count)
            while answer and (more := self._more(answer)):
                answer = [*answer, *more]
        self._count += len(answer)
        yield from answer

    def _more(self, answer: Sequence[Entry]) -> Sequence[Entry]:
        return self._exchange.entries(self._worker(), self._count + len(answer))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Appends entries, once, however often the coordinator has to be asked."""
        self._answer = self._exchange.append(self._worker(), logs, uuid.uuid4().hex, self._count)

    def held(self) -> AbstractContextManager[None]:
        """Nothing: the coordinator appends the entries of one call at a time."""
        return nullcontext()

    def damaged(self, found: str) -> DamagedFileError:
        """See ``Backend.damaged``."""
        return DamagedFileError(self._folder, f"its study is damaged: entry {self._count} {found}", "see its study.log")
