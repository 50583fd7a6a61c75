"""Source files of every language. Each file is either training text or held out."""

import random
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from mergesearch.demo.extraction import EXTRACTIONS
from mergesearch.demo.size import Size
from mergesearch.errors import UserError
from mergesearch.seeds import derive

_MAX_CHARACTERS = 60_000
_MIN_FILES = 100

Files = dict[str, str]
"""The text of each file, by its path relative to the folder of the sources."""


@dataclass(frozen=True)
class _Source:
    """The files of a language: in this folder of these packages; the package ``STANDARD_LIBRARY`` is the interpreter's.

    Files that are smaller than ``min_bytes`` and those in folders of the names ``excluded`` are left out.
    """

    packages: tuple[str, ...]
    folder: str
    suffixes: frozenset[str]
    excluded: frozenset[str]
    min_bytes: int = 1_000


STANDARD_LIBRARY = ""

# Many files with few items each: the items of a file succeed and fail together, so that more of one file prove little.
# Excluded are tables, generated code and tests: much of their text is repeated, also in held-out files.
_SOURCES = {
    "python": _Source(
        (
            STANDARD_LIBRARY,
            "optuna",
            "sqlalchemy",
            "alembic",
            "datasets",
            "huggingface_hub",
            "fsspec",
            "pydantic",
            "rich",
        ),
        "",
        frozenset({".py"}),
        frozenset(
            {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "pydoc_data", "lib2to3"}
        ),
    ),
    "cpp": _Source(("torch",), "include", frozenset({".h", ".hpp", ".cuh"}), frozenset({"ops", "generated", "oneapi"})),
    "english": _Source(
        ("numpy", "pandas", "scipy", "sklearn", "sympy", "torch"),
        "",
        frozenset({".py"}),
        frozenset({"test", "tests", "testing", "externals", "_vendor"}),
    ),
    "yaml": _Source(("lm_eval",), "tasks", frozenset({".yaml", ".yml"}), frozenset(), min_bytes=100),
}


@dataclass(frozen=True)
class Corpus:
    """The files of one language."""

    language: str
    training: Files
    held_out: Files


def read(language: str, size: Size) -> Corpus:
    """Reads the files of this machine in a seeded order: first the held-out files, then the training text.

    Raises UserError where too few files are installed.
    """
    source = _SOURCES[language]
    paths = [(root, path) for root in _roots(language, source) for path in _source_files(root, source)]
    if len(paths) < _MIN_FILES:
        raise _too_few_files(language, source, len(paths))
    random.Random(derive(size.seed, "files", language)).shuffle(paths)
    texts = _texts(language, paths)
    held_out = dict(_first(texts, min(size.held_out_files, len(paths) // 4), size.held_out_characters))
    return Corpus(language, dict(_first(texts, 0, size.characters)), held_out)


def _roots(language: str, source: _Source) -> list[Path]:
    specs = [find_spec(name) for name in source.packages if name != STANDARD_LIBRARY]
    roots = [Path(spec.origin).parent for spec in specs if spec is not None and spec.origin is not None]
    if STANDARD_LIBRARY in source.packages:
        roots.insert(0, Path(sysconfig.get_path("stdlib")))
    if not roots:
        raise UserError(f"the demo's {language} text comes from {', '.join(source.packages)}: not installed")
    return roots


@cache
def _source_files(root: Path, source: _Source) -> list[Path]:
    return [
        path
        for path in sorted((root / source.folder).rglob("*"))
        if path.suffix in source.suffixes
        and not source.excluded.intersection(path.relative_to(root).parts)
        and path.stat().st_size >= source.min_bytes
    ]


def _too_few_files(language: str, source: _Source, found: int) -> UserError:
    folders = ", ".join(str(root / source.folder) for root in _roots(language, source))
    return UserError(
        f"the demo's {language} text comes from {folders}: found {found} source files "
        f"({', '.join(sorted(source.suffixes))}), needs {_MIN_FILES}; use a Python and packages that were installed "
        "with their sources"
    )


def _texts(language: str, paths: Iterable[tuple[Path, Path]]) -> Iterator[tuple[str, str]]:
    """Names and texts of the files that have enough text of the language."""
    extract = EXTRACTIONS[language]()
    for root, path in paths:
        if text := extract(path.read_text(encoding="utf-8", errors="replace")):
            yield path.relative_to(root.parent).as_posix(), _cut(text)


def _first(texts: Iterator[tuple[str, str]], files: int, characters: int) -> Iterator[tuple[str, str]]:
    """The next texts, until there are this many files and this many characters."""
    found = total = 0
    while found < files or total < characters:
        if (text := next(texts, None)) is None:
            return
        found, total = found + 1, total + len(text[1])
        yield text


def _cut(text: str) -> str:
    """A text, cut at the end of a line: else a few very long files would be most of the text."""
    return text if len(text) <= _MAX_CHARACTERS else text[: text.rindex("\n", 0, _MAX_CHARACTERS) + 1]
