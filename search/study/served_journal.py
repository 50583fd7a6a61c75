"""The journal of a study as a coordinator reads and appends it for its workers."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from mergesearch.search.study.exchange import ENTRIES, Entry
from mergesearch.search.study.journal import ChainedJournal
from mergesearch.search.study.run_folder import JOURNAL

TIMES = ("datetime_start", "datetime_complete")
"""Keys of an entry; one that has both is of a trial that was not run here."""


class ServedJournal:
    """The study's journal, kept in memory."""

    def __init__(self, path: Path) -> None:
        (path / JOURNAL).touch()
        self._file, self._entries = ChainedJournal(path / JOURNAL), list[Entry]()
        self._requests: set[str] = set()

    def _read(self) -> None:
        for entry in self._file.read_logs(len(self._entries)):
            self._entries.append(entry)
            self._requests.add(entry.get("request", ""))

    def entries(self, begin: int) -> Sequence[Entry]:
        """See ``Exchange.entries``."""
        self._read()
        return self._entries[begin : begin + ENTRIES]

    def append(self, entries: Sequence[Entry], request: str) -> None:
        """See ``Exchange.append``. The journal itself says which requests it has, so that a restart forgets none."""
        self._read()
        if request not in self._requests:
            self._file.append_logs([{**_timed(entry), "request": request} for entry in entries])


def _timed(entry: Entry) -> Entry:
    """The entry with the time by this host's clock, where it begins or ends a trial now: workers' clocks differ."""
    times = [key for key in TIMES if entry.get(key)]
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    return {**entry, times[0]: now} if len(times) == 1 else entry
