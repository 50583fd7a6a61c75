"""Which keys of a config may change between two sessions of a run."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mergesearch.errors import UserError

MAY_CHANGE = {
    *(("search", key) for key in ("trials", "timeout", "trial_timeout", "patience", "target", "storage")),
    ("output", "model"),
    ("soup", "kinds"),
    ("threads",),
    ("track",),
    ("trust",),
    ("workers",),
}
"""The keys of a config that may change when a run is resumed."""


MAY_MOVE = ("search", "artifacts")
"""The key that may change, but not be added or left out."""


def another_config(path: Path, keys: Sequence[str], before: object, after: object) -> UserError:
    """The error of a run that was begun with another config, which differs at these keys."""
    return UserError(
        f"{path}: was begun with another config: {'.'.join(keys)} was {before!r}, now {after!r}; "
        "give the new run another name with --name"
    )


def forbidden_changes(old: Any, new: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """The differences between two configs that a run must not have."""
    return (difference for difference in _differences(old, new, ()) if _is_forbidden(*difference))


def _is_forbidden(keys: tuple[str, ...], old: object, new: object) -> bool:
    return None in (old, new) if keys == MAY_MOVE else keys[:2] not in MAY_CHANGE


def _differences(old: Any, new: Any, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """The keys of two configs whose values differ, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from _differences(old.get(key), new.get(key), (*keys, str(key)))
    elif old != new:
        yield keys, old, new
