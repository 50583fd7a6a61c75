"""What a command does now, in a line of the terminal that goes when the command has ended."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, time

from rich.console import Console
from rich.live import Live
from rich.text import Text

from mergesearch.search.study.progress import Doing, left_in_words
from mergesearch.steps import Meter, metered
from mergesearch.text import as_line


@contextmanager
def shown_steps(screen: Console) -> Iterator[None]:
    """Shows within the context what is being done; nothing where the screen is no terminal."""
    if not screen.is_terminal:
        yield
        return
    with (
        metered() as meter,
        Live(get_renderable=lambda: _line(meter), console=screen, refresh_per_second=1, transient=True),
    ):
        yield


def _line(meter: Meter) -> Text:
    steps = meter.steps
    if not steps:
        return Text("")
    last, what = steps[-1], ": ".join(step.what for step in steps)
    if not last.of:
        return Text(as_line(what), style="dim")
    spent = monotonic() - last.begun
    left = spent * (last.of / last.done - 1) if last.done else None
    doing = Doing("", what, last.done, last.of, last.unit, left=left, at=time())
    return Text(as_line(f"{doing.in_words}  {left_in_words([doing])}".rstrip()), style="dim")
