"""What the scores of a task depend on beside the model: the content of its items, and its code."""

from __future__ import annotations

import functools
import inspect
import sysconfig
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from mergesearch.evaluators.contract.evaluator import Evaluator
from mergesearch.evaluators.contract.item import Item

OWN = __name__.partition(".")[0]
"""The name of this package."""


@runtime_checkable
class HasContent(Protocol):
    """What an evaluator may have in addition to ``Evaluator``, where ``Item.text`` is not all that is scored."""

    def content_of(self, item: Item) -> object:
        """The item's document, right answer and prompt, as JSON. To be called after the first ``prepare``."""
        ...


@runtime_checkable
class HasCode(Protocol):
    """What an evaluator may have in addition to ``Evaluator``, where code or settings are in files of their own."""

    def code(self) -> Mapping[str, object]:
        """Files, as paths, and other content as JSON, by a name for the user."""
        ...


def content_of(evaluator: Evaluator, item: Item) -> object:
    """All that the item's score depends on beside the model and the evaluator's code."""
    own = evaluator.content_of(item) if isinstance(evaluator, HasContent) else item.text
    return [item.fingerprint, item.weight, own]


def code_of(evaluator: Evaluator) -> dict[str, object]:
    """Files and other content on which all scores depend, by a name for the user."""
    own = dict(evaluator.code()) if isinstance(evaluator, HasCode) else {}
    return {**{path.name: path for path in source_files([type(evaluator)])}, **own}


def source_files(objects: Iterable[object]) -> list[Path]:
    """The files that these functions and classes are written in, without those of installed packages.

    Other objects have none.
    """
    found = (_source_file(each) for each in objects)
    return list(dict.fromkeys(path for path in found if path is not None))


def functions_in(content: object) -> Iterator[object]:
    """The functions in lists and mappings."""
    if isinstance(content, Mapping):
        for value in content.values():
            yield from functions_in(value)
    elif isinstance(content, list | tuple):
        for value in content:
            yield from functions_in(value)
    elif callable(content):
        yield content


def without_functions(content: object) -> object:
    """Lists and mappings as JSON, with the names of functions in their place, and of the types of other objects."""
    if isinstance(content, Mapping):
        return {str(key): without_functions(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [without_functions(value) for value in content]
    if content is None or isinstance(content, str | int | float | bool):
        return content
    return getattr(content, "__qualname__", type(content).__qualname__)


def _source_file(obj: Any) -> Path | None:
    while isinstance(obj, functools.partial):
        obj = obj.func
    obj = inspect.unwrap(obj) if callable(obj) else obj
    code = obj if isinstance(obj, type | types.FunctionType | types.MethodType) else type(obj)
    if code.__module__.partition(".")[0] == OWN:
        return None
    try:
        file = inspect.getsourcefile(code)
    except TypeError:  # built in
        return None
    return Path(file) if file and Path(file).is_file() and not _is_installed(Path(file)) else None


def _is_installed(path: Path) -> bool:
    return "site-packages" in path.parts or path.is_relative_to(sysconfig.get_paths()["stdlib"])
