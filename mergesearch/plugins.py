"""Finds the object that a name in a config refers to: in a table, an entry point, a module or a file."""

import hashlib
import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from mergesearch.copies import here
from mergesearch.errors import UserError, in_words, nearest
from mergesearch.foreign import other_code

T = TypeVar("T")


def find(name: str, table: Mapping[str, T], group: str, what: str) -> T | Any:
    """The object that ``name`` refers to.

    ``name`` is a key of ``table``, a reference with a colon as ``load`` takes it, or an entry point of ``group``.
    Raises UserError where there is no such object or importing it fails; the message calls the object a ``what``.
    """
    if name in table:
        return table[name]
    if ":" in name:
        return load(name)
    points = {point.name: point for point in entry_points(group=group)}
    if name not in points:
        raise UserError(f"there is no {what} {name!r}{nearest(name, {*table, *points})}")
    try:
        with other_code(f"{what} {name!r}"):
            return points[name].load()
    except Exception as error:  # importing runs anything
        raise UserError(f"{what} {name!r}, an entry point for {points[name].value}: {in_words(error)}") from error


def load(reference: str) -> Any:
    """The object at ``"module:name"`` or ``"path/to/file.py:name"``; ``name`` may have dots.

    Imports the module, or runs the file once. Raises UserError where that fails or there is no such object.
    """
    source, _, name = reference.rpartition(":")
    if not source or not name:
        raise UserError(f"found {reference!r}, expected 'module:name' or 'path/to/file.py:name'")
    result: Any = _run_file(Path(source)) if source.endswith(".py") else _import_module(source)
    for part in name.split("."):
        if not hasattr(result, part):
            public = [each for each in vars(result) if not each.startswith("_")]
            raise UserError(f"{source} has no {name!r}{nearest(part, public)}")
        result = getattr(result, part)
    return result


def _import_module(name: str) -> ModuleType:
    try:
        with other_code(name):
            return import_module(name)
    except Exception as error:  # importing runs anything
        is_missing = isinstance(error, ModuleNotFoundError) and error.name == name.partition(".")[0]
        hint = "; a file is named with its path, as in path/to/file.py:name" if is_missing else ""
        raise UserError(f"{name}: cannot be imported: {in_words(error)}{hint}") from error


def _run_file(path: Path) -> ModuleType:
    path = Path(here(str(path)))
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    # The name depends on the whole path: files of the same name are different modules, and each runs once.
    name = f"_mergesearch_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)
    try:
        with other_code(str(path)):
            spec.loader.exec_module(module)
    except Exception as error:  # importing runs anything
        del sys.modules[name]
        raise UserError(f"{path}: cannot be imported: {in_words(error)}") from error
    return module
