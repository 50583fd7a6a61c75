"""Source files of both languages. Each file is either training text or held out."""

import random
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path

from mergesearch.demo.size import Size
from mergesearch.errors import UserError
from mergesearch.seeds import derive

# Tables, generated code and tests: much of their text is repeated, also in held-out files.
_EXCLUDED_FOLDERS = {
    "python": {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "pydoc_data", "lib2to3"},
    "cpp": {"ops", "generated", "oneapi"},
}
_SUFFIXES = {"python": {".py"}, "cpp": {".h", ".hpp", ".cuh"}}
_MIN_BYTES, _MAX_CHARACTERS = 1_000, 60_000
_MIN_FILES = 100

Files = dict[str, str]
"""The text of each file, by its path relative to the root."""


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
    root = _root(language)
    paths = _source_files(root, language)
    random.Random(derive(size.seed, "files", language)).shuffle(paths)
    held_out = min(size.held_out_files, len(paths) // 4)
    candidates = paths[held_out:]
    totals = accumulate((min(path.stat().st_size, _MAX_CHARACTERS) for path in candidates), initial=0)
    training = [path for path, total in zip(candidates, totals, strict=False) if total < size.characters]
    return Corpus(language, _read_files(root, training), _read_files(root, paths[:held_out]))


def _root(language: str) -> Path:
    if language == "python":
        return Path(sysconfig.get_path("stdlib"))
    torch = find_spec("torch")
    if torch is None or torch.origin is None:
        raise UserError("the demo needs torch, for its C++ headers and to train; it is not installed")
    return Path(torch.origin).parent / "include"


def _source_files(root: Path, language: str) -> list[Path]:
    suffixes, excluded = _SUFFIXES[language], _EXCLUDED_FOLDERS[language]
    paths = [
        path
        for path in sorted(root.rglob("*"))
        if path.suffix in suffixes
        and not excluded.intersection(path.relative_to(root).parts)
        and path.stat().st_size >= _MIN_BYTES
    ]
    if len(paths) < _MIN_FILES:
        raise UserError(
            f"the demo's {language} text comes from {root}: found {len(paths)} source files "
            f"({', '.join(sorted(suffixes))}), needs {_MIN_FILES}; use a Python and a torch that were installed with "
            "their sources"
        )
    return paths


def _read_files(root: Path, paths: Iterable[Path]) -> Files:
    return {path.relative_to(root).as_posix(): _read_file(path) for path in paths}


def _read_file(path: Path) -> str:
    """A file's text, cut at the end of a line: else a few very long files would be most of the text."""
    text = path.read_text(encoding="utf-8", errors="replace")
    return text if len(text) <= _MAX_CHARACTERS else text[: text.rindex("\n", 0, _MAX_CHARACTERS) + 1]
