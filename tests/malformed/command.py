"""Runs the command line in this process, and says how it ended."""

import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

from click.testing import CliRunner

from mergesearch.errors import UserError
from mergesearch.foreign import Interruption
from mergesearch.search.cli import main

SECONDS = 10.0
"""What takes longer hangs. On a machine with nothing else to do, malformed input takes well below two seconds."""


class TooLong(Interruption):
    """The time is over."""


@contextmanager
def limited(seconds: float = SECONDS, work: float = 0) -> Iterator[None]:
    """Raises TooLong once the seconds are over, or that much ``work`` of the processor. For the main thread only."""

    def end(_: int, __: FrameType | None) -> NoReturn:
        raise TooLong

    limits = ((signal.SIGALRM, signal.ITIMER_REAL, seconds), (signal.SIGPROF, signal.ITIMER_PROF, work))
    before = [signal.signal(number, end) for number, _, _ in limits]
    for _, timer, limit in limits:
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for (number, timer, _), handler in zip(limits, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


@dataclass(frozen=True)
class Ending:
    """How a command ended: ``done``, ``refused`` (exit 2), ``traceback`` or ``hang``; and what it said."""

    kind: str
    text: str

    @property
    def errors(self) -> list[str]:
        """What it said is wrong, line by line, without warnings."""
        return [line for line in self.text.splitlines() if not line.startswith("warning: ")]


def ending(*arguments: object, seconds: float = SECONDS) -> Ending:
    """How the command with these arguments ends."""
    try:
        with limited(seconds):
            result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    except TooLong:
        return Ending("hang", "")
    if isinstance(result.exception, TooLong):
        return Ending("hang", "")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return Ending("traceback", "".join(traceback.format_exception(result.exception)))
    return Ending({0: "done", 2: "refused"}.get(result.exit_code, "traceback"), result.stderr)


def outcome(call: Callable[[], Any], seconds: float = SECONDS, work: float = 0) -> str:
    """What a call does: ``done`` or ``refused`` (UserError). Any other exception, and TooLong, go through."""
    try:
        with limited(seconds, work):
            call()
    except UserError:
        return "refused"
    return "done"
