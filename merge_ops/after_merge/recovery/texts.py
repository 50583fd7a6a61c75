"""Texts without labels, as passages: what is kept apart from the items of tasks, and what is drawn.

A text is a file in UTF-8, or a folder of such files. Of a ``.jsonl`` file, the field ``text`` of each line is a text.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mergesearch.copies import here
from mergesearch.errors import UserError, first_line
from mergesearch.merge_ops.recipe.recovery import NAME_DIGITS, Recovery
from mergesearch.reading import read_text
from mergesearch.seeds import derive

PASSAGE = 2_000
"""The most characters of a passage. It ends at the end of a line, unless a line is longer."""
MOST_BYTES = 64 << 20
"""The largest file."""
CHARACTERS = 8
"""For each token that is asked for, so many characters of passages are drawn."""
Passages = Mapping[str, Sequence[str]]
"""The passages of each parent, by its reference; under ``FOR_ALL`` those of one text for all."""


def drawn_passages(settings: Recovery, parents: Sequence[str]) -> Passages:
    """Returns the passages that the parents run on, in the order in which they are used.

    Raises:
        UserError: a text cannot be read or is empty, or the texts are not those of ``settings.digest``.
    """
    count = characters(settings, len(parents))
    found = {name: list(_drawn(each, count)) for name, each in ordered(settings, parents).items()}
    if settings.digest and digest_of(found) != settings.digest:
        raise UserError(
            f"recover.digest: the texts are others than those of this recipe: found {digest_of(found)}, expected "
            f"{settings.digest}; bring back the texts, or leave out digest"
        )
    return found


def ordered(settings: Recovery, parents: Sequence[str]) -> Passages:
    """Returns all passages of the texts, each once, in a random order that depends on themselves and the seed.

    Raises:
        UserError: a text cannot be read, or nothing is in it.
    """

    def place(passage: str) -> int:
        return derive(settings.seed, "recover", passage, bits=128)

    paths, without = settings.paths_of(parents), set(settings.without)
    found = {name: dict.fromkeys(passages_of(Path(here(path)))) for name, path in paths.items()}
    return {name: sorted((p for p in each if name_of(p) not in without), key=place) for name, each in found.items()}


def characters(settings: Recovery, parents: int) -> int:
    """Returns how many characters are drawn of each text."""
    return CHARACTERS * settings.sequences * settings.length * (parents if isinstance(settings.data, str) else 1)


def _drawn(passages: Sequence[str], wanted: int) -> Iterator[str]:
    for passage in passages:
        if wanted <= 0:
            return
        wanted -= len(passage)
        yield passage


def name_of(passage: str) -> str:
    """Returns what a passage is named by in ``Recovery.without``."""
    return hashlib.sha256(passage.encode()).hexdigest()[:NAME_DIGITS]


def passages_of(path: Path) -> list[str]:
    """Returns the passages of a file, or of all files of a folder in the order of their names.

    Raises:
        UserError: a file cannot be read, or there is no text.
    """
    files = sorted(file for file in path.rglob("*") if _is_text(file, path)) if path.is_dir() else [path]
    found = [passage for file in files for text in _texts(file) for passage in cut(text)]
    if not found:
        raise UserError(f"recover.data: {path} has no text")
    return found


def cut(text: str) -> Iterator[str]:
    """Yields the passages of a text: whole lines, as many as fit. What is blank is left out."""
    passage = ""
    for line in text.splitlines(keepends=True):
        if passage and len(passage) + len(line) > PASSAGE:
            yield from _filled(passage)
            passage = ""
        passage += line
    yield from _filled(passage)


def _filled(passage: str) -> Iterator[str]:
    yield from (passage[n : n + PASSAGE] for n in range(0, len(passage), PASSAGE) if passage[n : n + PASSAGE].strip())


def digest_of(passages: Passages) -> str:
    """Returns the SHA-256 of the passages and of whose they are, by content alone."""
    content = [list(each) for each in passages.values()]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _is_text(file: Path, folder: Path) -> bool:
    return file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)


def _texts(file: Path) -> Iterator[str]:
    text = read_text(file, MOST_BYTES)
    if file.suffix != ".jsonl":
        yield text
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _field(line, f"{file}, line {number}")


def _field(line: str, where: str) -> str:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: is not JSON: {first_line(error)}") from None
    text = content.get("text") if isinstance(content, dict) else None
    if not isinstance(text, str):
        raise UserError(f"{where}: has no field text with a text")
    return text
