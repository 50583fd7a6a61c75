"""Source files of both languages, split by file into training and held-out ones."""

import random
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path

from mergesearch.demo import Size
from mergesearch.errors import UserError
from mergesearch.seeds import derive

# Tables, generated code and tests: much alike, so that they teach little and repeat the held-out files.
_SKIPPED = {
    "python": {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "pydoc_data", "lib2to3"},
    "cpp": {"ops", "generated", "oneapi"},
}
_SUFFIXES = {"python": {".py"}, "cpp": {".h", ".hpp", ".cuh"}}
_SHORTEST, _LONGEST = 1_000, 60_000
_FEWEST_FILES = 100

Files = dict[str, str]
"""A file's path inside its root, and its text."""


@dataclass(frozen=True)
class Corpus:
    """One language's files; no file is on both sides."""

    language: str
    training: Files
    held_out: Files


def read(language: str, size: Size) -> Corpus:
    """The files of this machine in a seeded order: first the held-out ones, then training up to its size."""
    root = _root(language)
    paths = _paths(root, language)
    random.Random(derive(size.seed, "files", language)).shuffle(paths)
    held_out = min(size.held_out_files, len(paths) // 4)
    return Corpus(
        language,
        training=_texts(root, _first(paths[held_out:], size.characters)),
        held_out=_texts(root, paths[:held_out]),
    )


def _root(language: str) -> Path:
    if language == "python":
        return Path(sysconfig.get_path("stdlib"))
    torch = find_spec("torch")
    if torch is None or torch.origin is None:
        raise UserError("the demo needs torch, for its C++ headers and to train; it is not installed")
    return Path(torch.origin).parent / "include"


def _paths(root: Path, language: str) -> list[Path]:
    found = [path for path in sorted(root.rglob("*")) if _is_wanted(path.relative_to(root), language)]
    paths = [path for path in found if path.stat().st_size >= _SHORTEST]
    if len(paths) < _FEWEST_FILES:
        kinds = ", ".join(sorted(_SUFFIXES[language]))
        raise UserError(
            f"the demo's {language} text comes from {root}: found {len(paths)} source files ({kinds}), needs "
            f"{_FEWEST_FILES}; use a Python and a torch that were installed with their sources"
        )
    return paths


def _is_wanted(path: Path, language: str) -> bool:
    return path.suffix in _SUFFIXES[language] and not _SKIPPED[language].intersection(path.parts)


def _first(paths: list[Path], characters: int) -> Iterator[Path]:
    before = accumulate((min(path.stat().st_size, _LONGEST) for path in paths), initial=0)
    return (path for path, total in zip(paths, before, strict=False) if total < characters)


def _texts(root: Path, paths: Iterator[Path] | list[Path]) -> Files:
    return {path.relative_to(root).as_posix(): _text(path) for path in paths}


def _text(path: Path) -> str:
    # The very long files would be most of the text; they are cut at the end of a line.
    text = path.read_text(encoding="utf-8", errors="replace")
    return text if len(text) <= _LONGEST else text[: text.rindex("\n", 0, _LONGEST) + 1]
