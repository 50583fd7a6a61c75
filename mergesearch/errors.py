"""The error that a user can fix, and helpers for its message."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Input that the user has to change. The command line prints the message alone and exits with code 2.

    The message names the file and the key, what was found, what is valid and the nearest valid name.
    """


def in_words(error: Exception) -> str:
    """The type and the message of an error, as in ``KeyError: 'x'``, for errors of other people's code."""
    return f"{type(error).__name__}: {error}"


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint such as ``; did you mean 'weight'?``; where no valid name is close, a list of the valid names."""
    names = sorted(valid)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; valid: {', '.join(names) or 'none'}"


def listed(names: Iterable[str], most: int = 5) -> str:
    """The first ``most`` names in alphabetical order, and the number of the others."""
    ordered = sorted(names)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + more
