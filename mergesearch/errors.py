"""The error that a user can fix, and helpers for its message."""

import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import ParamSpec, TypeVar

from mergesearch.text import shown

P = ParamSpec("P")
T = TypeVar("T")

SHOWN_OF_GROUP = 3
"""How many exceptions of a group are shown."""
GROUPS_DEEP = 3


class UserError(Exception):
    """Input that the user has to change. The command line prints the message alone and exits with code 2.

    The message names the file and the key, what was found, what is valid and the nearest valid name.

    Args:
        problems: one message, or several that were found together, each of one line.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@contextmanager
def located(where: str) -> Iterator[None]:
    """Puts ``where`` before each problem of a UserError."""
    try:
        yield
    except UserError as error:
        raise UserError(*(f"{where}: {problem}" for problem in error.problems)) from None


class Problems:
    """The problems of steps that do not depend on each other, so that users see all of them at once."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def attempt(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """What the step returns; None where it raises UserError, whose problems are kept."""
        try:
            return step(*args, **kwargs)
        except UserError as error:
            self.found += error.problems
            return None

    def check(self) -> None:
        """Raises UserError with all problems, each once, if there are any."""
        if self.found:
            raise UserError(*dict.fromkeys(self.found))


def first_line(error: BaseException) -> str:
    """The first line of an error's message that is not blank, or its type's name."""
    lines = (line.strip() for line in shown(error).splitlines())
    return next(filter(None, lines), type(error).__name__)


class DamagedFileError(UserError):
    """A file of a run's folder that is missing, cut, or not what was written. Some callers repair it.

    Attributes:
        fact: the file and what was found; the message also says what to do, the ``remedy``.
    """

    def __init__(self, file: Path, found: str, remedy: str) -> None:
        self.fact = f"{file}: {found}"
        super().__init__(f"{self.fact}; {remedy}")


class ForeignExitError(UserError):
    """Code of other people tried to end the process, or raised what is no ``Exception``."""


def in_words(error: BaseException, depth: int = 0) -> str:
    """The type and the message of an error, as in ``KeyError: 'x'``, for errors of other people's code.

    Whatever the error is, the text is short and safe to print. One without a message gets the place where it was
    raised, and a group of exceptions gets the first of them, to a ``depth`` of groups within groups.
    """
    if isinstance(error, ForeignExitError):
        return shown(error)
    message = shown(error).strip() or raised_in(error) or "without a message"
    parts = error.exceptions if isinstance(error, BaseExceptionGroup) and depth < GROUPS_DEEP else ()
    more = f" and {len(parts) - SHOWN_OF_GROUP} more" if len(parts) > SHOWN_OF_GROUP else ""
    inner = "; ".join(in_words(part, depth + 1) for part in parts[:SHOWN_OF_GROUP])
    return shown(f"{type(error).__name__}: {message}{f': {inner}{more}' if inner else ''}")


def raised_in(error: BaseException) -> str:
    """Where an error was raised, as ``innermost`` says it."""
    return innermost(traceback.extract_tb(error.__traceback__))


def innermost(frames: Sequence[traceback.FrameSummary]) -> str:
    """The last of the frames, as in ``in judge.py, line 3``; empty where there are none."""
    return f"in {frames[-1].filename}, line {frames[-1].lineno}" if frames else ""


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint such as ``; did you mean 'weight'?``; where no valid name is close, a list of the valid names."""
    names = sorted(valid)
    inside = [part for part in name.split("_") if part in names]  # the seed of random_seed
    close = get_close_matches(name, names, n=1, cutoff=0.8) or inside or get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; valid: {', '.join(names) or 'none'}"


def listed(names: Iterable[str], most: int = 5) -> str:
    """The first ``most`` names in alphabetical order, and the number of the others."""
    ordered = sorted(names)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + more
