"""Lines for the user, such as notes and warnings, which the caller of a function shows."""

from collections.abc import Callable

Say = Callable[[str], object]
"""Takes a line for the user."""


def silent(_: str) -> None:
    """Ignores the line."""
