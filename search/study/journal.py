"""The journal of a study: a file with one line for each change, chained so that damage is found.

Each line ends with a sum over the line before it and itself. A line that was changed, doubled, moved, taken out or put
in from another journal breaks the chain: the journal is then refused, with the number of the line. What a process that
was killed left behind, half a line at the end, is cut off. Journals of earlier versions have no sums up to the line
where this version goes on with them.
"""

import copy
import json
import os
import re
from abc import abstractmethod
from collections.abc import Container, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from hashlib import blake2b
from pathlib import Path
from threading import RLock
from typing import IO, Any

from filelock import BaseFileLock
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.storages.journal._storage import JournalOperation
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from mergesearch.errors import DamagedFileError, in_words
from mergesearch.files import named_failures
from mergesearch.reading import check_file
from mergesearch.say import Say, silent
from mergesearch.search.study.locks import file_lock, held_lock

BLOCK = 1 << 12
"""Bytes that are read at once in search of the journal's last whole line."""
OF_TRIALS = {
    operation for operation in JournalOperation if "TRIAL" in operation.name and "DISCARD" not in operation.name
}
"""The operations that concern one trial. Optuna has no public name for them."""
SUMMED = re.compile(rb'(\{.*),"sum":"([0-9a-f]{16})"\}', re.DOTALL)


def open_journal(file: Path, say: Say = silent) -> BaseStorage:
    """The storage in a journal file, which is created where it is missing and may be.

    ``say`` tells the user who holds the journal's lock for long. Raises DamagedFileError where the file is not what was
    written.
    """
    if not file.exists():
        file.touch()
    check_file(file)
    return storage_on(ChainedJournal(file, say))


def storage_on(backend: "Backend") -> BaseStorage:
    """The storage in a journal. Raises DamagedFileError where it is not what was written."""
    try:
        return _Journal(backend)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise backend.damaged(f"has an entry that makes no sense ({in_words(error)})") from None


def noted_together(study: Study) -> AbstractContextManager[None]:
    """Inside this block the notes of a study with a journal take the journal's lock once. To be left soon."""
    storage = study._storage  # Optuna has no public name for it.
    return storage.together() if isinstance(storage, _Journal) else nullcontext()


def noted_aside(study: Study) -> AbstractContextManager[object]:
    """For notes of another thread than the one that uses ``noted_together``.

    That thread holds the journal's lock, and waits for the storage's own lock at each note. A note elsewhere takes the
    two the other way round, so it must not fall into such a block.
    """
    storage = study._storage  # Optuna has no public name for it.
    return storage.aside if isinstance(storage, _Journal) else nullcontext()


class Backend(BaseJournalBackend):
    """Where a journal's entries are read and appended."""

    @abstractmethod
    def held(self) -> AbstractContextManager[None]:
        """Keeps other processes from the journal, as far as that makes several entries quicker to append."""

    @abstractmethod
    def damaged(self, found: str) -> DamagedFileError:
        """The error for the first entry that was not read yet."""


class _Journal(JournalStorage):
    """A journal's trials, kept in a list: only those that had not finished are looked up again.

    ``aside`` is held by whoever notes something beside the thread that notes ``together``.
    """

    def __init__(self, backend: Backend) -> None:
        self._held, self.aside = backend.held, RLock()
        self._trials: dict[int, list[FrozenTrial]] = {}
        self._unfinished: dict[int, list[int]] = {}
        super().__init__(backend)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Holds the journal's lock."""
        with self.aside, self._held():
            yield

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        with self._thread_lock:
            self._sync_with_backend()
            trials = self._all(study_id)
            if states is not None and not any(state in states for state in TrialState if state.is_finished()):
                trials = [trials[number] for number in self._unfinished[study_id]]
            found = list(trials) if states is None else [trial for trial in trials if trial.state in states]
            return copy.deepcopy(found) if deepcopy else found

    def _all(self, study_id: int) -> list[FrozenTrial]:
        # The public ways copy all trials each time; these are the lists that Optuna itself reads.
        result = self._replay_result
        result.get_study(study_id)  # raises KeyError
        ids, trials = result._study_id_to_trial_ids[study_id], self._trials.setdefault(study_id, [])
        changed = [*self._unfinished.get(study_id, ()), *range(len(trials), len(ids))]
        for number in changed:
            trials[number : number + 1] = [result._trials[ids[number]]]
        self._unfinished[study_id] = [number for number in changed if not trials[number].state.is_finished()]
        return trials


class ChainedJournal(Backend):
    """Reads and appends the entries of a journal."""

    def __init__(self, file: Path, say: Say = silent) -> None:
        self._file, self._say = file, say
        self._lock = file_lock(_lock_of(file))
        self._rewind()

    def _rewind(self) -> None:
        self._count, self._offset, self._mark, self._is_chained = 0, 0, b"", False

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The entries from this number on. Raises DamagedFileError at the first line that is not what was written."""
        if log_number_from != self._count:
            self._rewind()
        elif self._file.stat().st_size == self._offset:
            return
        with self._file.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):  # another process is writing it, or was killed
                    return
                entry = self._checked(line.rstrip(b"\r\n"))
                self._count, self._offset = self._count + 1, self._offset + len(line)
                if self._count > log_number_from:
                    yield entry

    def _checked(self, line: bytes) -> dict[str, Any]:
        summed = SUMMED.fullmatch(line)
        if summed and summed[2] != _sum(self._mark, summed[1]):
            raise self.damaged("does not follow the line before it: one of the two was changed, doubled or moved")
        if not summed and self._is_chained:
            raise self.damaged("is not what was written")
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise self.damaged(f"is not JSON ({in_words(error)})") from None
        if not isinstance(entry, dict):
            raise self.damaged("is no entry")
        self._mark, self._is_chained = _mark(line), bool(summed)
        return entry

    def damaged(self, found: str) -> DamagedFileError:
        """The error for the first line that was not read yet."""
        hint = f"head -n {self._count} {self._file} > whole && mv whole {self._file}"
        return DamagedFileError(
            self._file,
            f"is damaged: line {self._count + 1} {found}",
            f"bring it back from a copy, or keep the lines before (`{hint}`): the same command then goes on from there",
        )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds the journal's lock, which a thread may do again while it does."""
        with journal_lock(self._file, self._say, self._lock):
            yield

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Appends entries. What ends a trial or concerns the study is on the disk before it returns.

        What is noted of a running trial gets there together with the trial's end: if the power fails before, the trial
        is lost in any case.
        """
        with named_failures(self._file), self.held(), self._file.open("r+b") as journal:
            mark, lines = _mark(_last_line(journal)), b""
            for entry in logs:
                body = json.dumps(entry, separators=(",", ":")).encode()[:-1]
                mark = _sum(mark, body)
                lines += body + b',"sum":"' + mark + b'"}\n'
            journal.seek(0, os.SEEK_END)
            journal.write(lines)
            journal.flush()
            if not all(map(_concerns_running_trial, logs)):
                os.fsync(journal.fileno())


def _concerns_running_trial(entry: Mapping[str, Any]) -> bool:
    """Whether an entry begins a trial or notes something of one that has not ended."""
    state = entry.get("state", TrialState.RUNNING)
    return entry["op_code"] in OF_TRIALS and not TrialState(state).is_finished()


def _sum(mark: bytes, body: bytes) -> bytes:
    return blake2b(mark + body, digest_size=8).hexdigest().encode()


def _mark(line: bytes) -> bytes:
    """What the next line's sum is made of: the line's own sum, or for a line without one its content."""
    summed = SUMMED.fullmatch(line)
    return summed[2] if summed else line


@contextmanager
def journal_lock(journal: Path, say: Say = silent, lock: BaseFileLock | None = None) -> Iterator[None]:
    """Holds the lock on a journal. Its file is the journal's, with the suffix ``.lock``. See ``held_lock``.

    The lock ends with the process that holds it. Optuna's own lock is a file, which a killed process leaves behind.

    A process that is killed while it appends leaves half a line. An entry behind it would make the journal unreadable,
    so whoever takes the lock first cuts the half line off.
    """
    with held_lock(_lock_of(journal), say, is_short=True, lock=lock):
        with journal.open("r+b") as file:
            _cut_torn_tail(file)
        yield


def _lock_of(journal: Path) -> Path:
    return journal.with_suffix(".lock")


def _cut_torn_tail(journal: IO[bytes]) -> None:
    """Cuts off what follows the last newline."""
    end = journal.seek(0, os.SEEK_END)
    whole = _line_end(journal, end)
    if whole < end:
        journal.truncate(whole)


def _last_line(journal: IO[bytes]) -> bytes:
    """The last whole line of a journal that ends with a newline, without it; empty where there is none."""
    end = journal.seek(0, os.SEEK_END)
    begin = _line_end(journal, max(0, end - 1))
    journal.seek(begin)
    return journal.read(end - begin).rstrip(b"\r\n")


def _line_end(journal: IO[bytes], before: int) -> int:
    """The position behind the last newline that comes before a position; 0 where there is none."""
    while before > 0:
        begin = max(0, before - BLOCK)
        journal.seek(begin)
        newline = journal.read(before - begin).rfind(b"\n")
        if newline >= 0:
            return begin + newline + 1
        before = begin
    return 0
