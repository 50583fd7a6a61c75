"""How far a run is, in a terminal: a bar, and below it what each worker does; elsewhere plain lines now and then."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Column

from mergesearch.text import as_line

NARROW = 100
"""Columns up to which the bar is short, for what stands beside it."""
LINE_SECONDS, LINE_SHARE, MOST_SECONDS = 10.0, 0.1, 300.0
"""How often a run without a terminal prints where it is: at first, then at this share of its time, and at least."""


@contextmanager
def progress_bar(screen: Console) -> "Iterator[ProgressBar]":
    """The bar of a run, shown until the context ends."""
    spinner = "dots" if screen.encoding.startswith("utf") else "line"
    with _Bars(
        SpinnerColumn(spinner),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24 if screen.width > NARROW else 8),
        MofNCompleteColumn(),
        TextColumn("{task.fields[best]}", markup=False, table_column=Column(overflow="fold", ratio=1)),
        TextColumn("{task.fields[left]}", markup=False, table_column=Column(no_wrap=True)),
        console=screen,
        disable=not screen.is_terminal,
        refresh_per_second=1,  # a refresh takes a millisecond
    ) as bars:
        yield ProgressBar(screen, bars)


class _Bars(Progress):
    """Bars, and below them lines of text."""

    lines: Sequence[str] = ()

    def get_renderables(self) -> Iterator[RenderableType]:
        """See ``Progress.get_renderables``."""
        yield from super().get_renderables()
        yield from (self.console.render_str(f"  {line}", style="dim", overflow="fold") for line in self.lines)


class ProgressBar:
    """Shows trials, the best so far, the time left, and what is being done."""

    def __init__(self, screen: Console, bars: _Bars) -> None:
        self._screen, self._bars = screen, bars
        self._task = bars.add_task("trials", total=None, best="", left="")
        self._trials = ""
        self._begun = self._last_line = monotonic()

    def trials(self, done: int, total: int, best: str = "", is_end: bool = False) -> None:
        """How many trials are done, of how many, and the best so far in words."""
        self._trials = f"trials {done}/{total} {best}".rstrip()
        self._bars.update(self._task, total=total, completed=min(done, total), best=best)
        self._print_line([], is_end)

    def doing(self, lines: Sequence[str], left: str) -> None:
        """What is being done, line by line, and the time left in words. Any thread may call this."""
        self._bars.lines = [as_line(line) for line in lines if line]
        self._bars.update(self._task, left=left)
        self._print_line([left, *lines])

    def _print_line(self, more: Sequence[str], is_due: bool = False) -> None:
        """Where the screen is no terminal, prints where the run is, unless it has just done so."""
        now = monotonic()
        wait = min(max(LINE_SECONDS, LINE_SHARE * (now - self._begun)), MOST_SECONDS)
        if self._screen.is_terminal or not (is_due or now - self._last_line > wait):
            return
        self._last_line = now
        self._screen.print(as_line("; ".join(text for text in (self._trials, *more) if text)), soft_wrap=True)
