"""What a run of several workers of this machine looks like in a terminal: one bar, and a line for each worker."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

from rich.console import Console

from mergesearch.say import Say
from mergesearch.search.report.progress_bar import ProgressBar, progress_bar
from mergesearch.search.report.run_log import LOG
from mergesearch.search.report.screen import CELL
from mergesearch.search.study.progress import left_in_words, read_progress, workers_in
from mergesearch.text import shown

SECONDS = 1.0
"""From one look at the run's folder to the next."""
LINE = re.compile(r"\S+ \S+ \d+ (?P<level>[A-Z]+) (?P<text>.*)")
"""A line of a run's log; see ``run_log.FORMAT``."""
TRIAL = re.compile(r"\d+/\d+ ")
"""How the text of a finished trial begins."""
OF_ONE = ("mergesearch ", "joining ", "ended by ", "threads: ")
"""How texts begin that are about a worker alone."""


@contextmanager
def shown_crew(screen: Console, folder: Path, verbose: bool) -> Iterator[tuple[Say, Callable[[], None]]]:
    """Shows the run in a folder: a function to say something, and one to call often, which looks what is new."""
    with progress_bar(screen) as bar:
        view = _Crew(screen, bar, folder, verbose)
        yield view.say, view.look
        view.tell_news()


class _Crew:
    def __init__(self, screen: Console, bar: ProgressBar, folder: Path, verbose: bool) -> None:
        self._screen, self._bar, self._folder, self._verbose = screen, bar, folder, verbose
        log = folder / LOG
        self._read = log.stat().st_size if log.exists() else 0
        self._said: set[str] = set()
        self._last = 0.0

    def say(self, text: str) -> None:
        self._screen.print(text, style="dim")

    def look(self) -> None:
        if monotonic() - self._last < SECONDS:
            return
        self._last = monotonic()
        self.tell_news()
        found = read_progress(self._folder)
        if found is not None:
            best = f"best {found.value:.3f} ({shown(found.best, CELL)})" if found.value is not None else ""
            self._bar.trials(found.trials, found.of, best + _stopped(found.stopped))
        workers = workers_in(self._folder)
        lines = [f"{each.worker}: {each.in_words}" for each in workers] or ["starting"]
        self._bar.doing(lines, left_in_words(workers))

    def tell_news(self) -> None:
        """Shows what the workers have logged since the last look: what all of them say once."""
        for line in self._new_lines():
            found = LINE.fullmatch(line)
            if found and self._is_news(found["level"], found["text"]):
                self._said.add(found["text"])
                self.say(found["text"])

    def _is_news(self, level: str, text: str) -> bool:
        if text in self._said or text.startswith(OF_ONE):
            return False
        is_for_all = level != "DEBUG" and not (level == "INFO" and TRIAL.match(text))
        return self._verbose or is_for_all

    def _new_lines(self) -> list[str]:
        """Whole lines of the log."""
        log = self._folder / LOG
        if not log.exists():
            return []
        with log.open("rb") as file:
            file.seek(self._read)
            whole = file.read().rpartition(b"\n")[0]
        self._read += len(whole) + 1 if whole else 0
        return whole.decode(errors="replace").splitlines()


def _stopped(count: int) -> str:
    return f"  {count} stopped early" if count else ""
