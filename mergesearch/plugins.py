"""Names in a config to objects, of this project or of anybody's: a table, entry points, ``"module:name"``, a file."""

import hashlib
import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from mergesearch.errors import UserError, in_words, nearest

T = TypeVar("T")


def find(name: str, table: Mapping[str, T], group: str, what: str) -> T | Any:
    """What ``name`` stands for: an entry of the table, what ``load`` finds, or an entry point of the group.

    Raises UserError, which calls the thing ``what``, with the nearest name where there is none.
    """
    if name in table:
        return table[name]
    if ":" in name:
        return load(name)
    points = {point.name: point for point in entry_points(group=group)}
    if name not in points:
        raise UserError(f"there is no {what} {name!r}{nearest(name, {*table, *points})}")
    try:
        return points[name].load()
    except Exception as error:  # importing runs anything
        raise UserError(f"{what} {name!r}, an entry point for {points[name].value}: {in_words(error)}") from error


def load(reference: str) -> Any:
    """The object at ``"module:name"`` or ``"path/to/file.py:name"``. Runs that module; raises UserError."""
    place, colon, name = reference.rpartition(":")
    if not colon or not place or not name:
        raise UserError(f"found {reference!r}, expected 'module:name' or 'path/to/file.py:name'")
    module = _file(Path(place)) if place.endswith(".py") else _module(place)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise UserError(f"{place} has no {name!r}{nearest(part, _public(found))}")
        found = getattr(found, part)
    return found


def _public(owner: Any) -> list[str]:
    return [name for name in vars(owner) if not name.startswith("_")]


def _module(name: str) -> ModuleType:
    try:
        return import_module(name)
    except Exception as error:  # importing runs anything
        hint = "; a file is named with its path, as in path/to/file.py:name" if _is_missing(error, name) else ""
        raise UserError(f"{name}: cannot be imported: {in_words(error)}{hint}") from error


def _is_missing(error: Exception, name: str) -> bool:
    return isinstance(error, ModuleNotFoundError) and error.name == name.partition(".")[0]


def _file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    # A name of its own, so that two files called alike are two modules, and one file is run once.
    name = f"_mergesearch_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # importing runs anything
        del sys.modules[name]
        raise UserError(f"{path}: cannot be imported: {in_words(error)}") from error
    return module
