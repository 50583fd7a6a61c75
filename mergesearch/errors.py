"""Errors that a user can mend: the command line prints their message alone and ends with exit code 2."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Bad input: the message names the place, what was found, what was expected and the nearest valid name."""


def in_words(error: Exception) -> str:
    """``KeyError: 'x'``, for errors of code that is not ours: their message alone may say nothing."""
    return f"{type(error).__name__}: {error}"


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint such as ``; did you mean 'weight'?``, or the valid names where none is near."""
    names = sorted(valid)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; valid: {', '.join(names) or 'none'}"


def listed(names: Iterable[str], most: int = 5) -> str:
    """The first few of many names, and how many more there are."""
    every = sorted(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more
