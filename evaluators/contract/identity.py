"""What the scores of a task depend on beside the model: the content of its items, and its code."""

from __future__ import annotations

import ast
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
    return {**named_files(source_files([type(evaluator)])), **own}


def named_files(paths: Iterable[Path]) -> dict[str, Path]:
    """Files by name; those of equal names by the ends of their paths that tell them apart."""
    files = list(dict.fromkeys(path.absolute() for path in paths))
    return {_short_name(path, files): path for path in files}


def _short_name(path: Path, files: Iterable[Path]) -> str:
    others = [other.parts for other in files if other != path]
    lengths = range(1, len(path.parts) + 1)
    length = next(n for n in lengths if all(parts[-n:] != path.parts[-n:] for parts in others))
    return Path(*path.parts[-length:]).as_posix()


def source_files(objects: Iterable[object]) -> list[Path]:
    """The files that these functions and classes are written in, and the files that these import from their folders.

    Installed packages do not count. Other objects have none.
    """
    found = (_source_file(each) for each in objects)
    return with_imported(path for path in found if path is not None)


def with_imported(paths: Iterable[Path]) -> list[Path]:
    """Python files, and those that they import, directly or through others, from the folders that they are in.

    Imports are read from the text: no code runs.
    """
    found: dict[Path, None] = {}
    left = [*paths][::-1]
    while left:
        path = left.pop()
        if path not in found:
            found[path] = None
            left += [*_imported_files(path)][::-1]
    return list(found)


def _imported_files(path: Path) -> Iterator[Path]:
    """The files that a Python file imports: beside it, or of the package that it is in."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (file for alias in node.names for file in _module_files(_roots(path), alias.name))
        elif isinstance(node, ast.ImportFrom):
            roots = [path.parents[node.level - 1]] if 0 < node.level <= len(path.parents) else _roots(path)
            yield from _module_files(roots, node.module or "")
            for alias in node.names:
                yield from _module_files(roots, f"{node.module or ''}.{alias.name}".strip("."))


def _roots(path: Path) -> list[Path]:
    """Where the absolute imports of a file may begin: its folder, and the folder that has its package."""
    package = path.parent
    while (package / "__init__.py").is_file() and package != package.parent:
        package = package.parent
    return list(dict.fromkeys([path.parent, package]))


def _module_files(roots: Iterable[Path], name: str) -> Iterator[Path]:
    """The file of a module, and those of the packages that it is in."""
    for root in roots:
        parts = [part for part in name.split(".") if part]
        for length in range(len(parts) + 1):
            place = root.joinpath(*parts[:length])
            candidates = [place / "__init__.py", *([place.with_suffix(".py")] if length else [])]
            yield from (file for file in candidates if file.is_file() and not _is_installed(file))


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
