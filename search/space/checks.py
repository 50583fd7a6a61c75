"""Checks that all readers of a search space share: each raises ``UserError`` with what it found and what is valid."""

from collections.abc import Mapping, Sequence
from typing import Any

from mergesearch.errors import UserError, nearest
from mergesearch.text import quoted


def check_keys(spec: Mapping[str, Any], valid: Sequence[str], where: str) -> None:
    """Raises UserError for the first key that is not a valid one."""
    for key in spec:
        if key not in valid:
            raise UserError(f"{where}: unknown key {str(key)!r}{nearest(str(key), valid)}")


def read_flag(spec: Mapping[str, Any], key: str, where: str) -> bool:
    """The value of a boolean key; false where the key is missing."""
    value = spec.get(key, False)
    if not isinstance(value, bool):
        raise UserError(f"{where}.{key}: found {quoted(value)}, expected true or false")
    return value


def check_integer(value: Any, low: int, high: int, where: str) -> int:
    """The value, if it is an integer from ``low`` to ``high``, both included."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise UserError(f"{where}: found {quoted(value)}, expected a whole number from {low} to {high}")
    return value
