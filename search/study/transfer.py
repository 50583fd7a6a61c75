"""Bringing a file of a run here from an ``Exchange``."""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mergesearch.files import atomic_path
from mergesearch.search.study.exchange import CHUNK, Exchange

HEAD = struct.Struct("<Q")
"""The beginning of a safetensors file: how long its header is."""
LARGE = 1 << 26
"""Bytes from which of a safetensors file only the header comes to a replica."""


@dataclass(frozen=True)
class Brought:
    """The version of a file that has come here, and whether all of it has."""

    version: str
    is_whole: bool


def whole(beginning: bytes, size: int) -> int:
    """Of a file, all bytes are wanted."""
    del beginning
    return size


def header_of(beginning: bytes, size: int) -> int:
    """Of a large safetensors file, so many bytes are wanted: its header."""
    return min(size, HEAD.size + int(HEAD.unpack_from(beginning)[0])) if size >= LARGE else size


def bring(
    exchange: Exchange, worker: str, name: str, target: Path, wanted: Callable[[bytes, int], int] = whole
) -> Brought | None:
    """Writes a file there to ``target``, as one version of it is; None where there is none.

    ``wanted`` says from the file's beginning and its size how many bytes are; what follows is a hole.
    """
    part = exchange.fetch(worker, name, 0, CHUNK)
    while part is not None:
        version, size, done = part.version, part.size, len(part.data)
        enough = wanted(part.data, size)
        with atomic_path(target, durable=False) as temporary, temporary.open("wb") as file:
            file.write(part.data)
            while done < enough and part is not None and part.version == version:
                part = exchange.fetch(worker, name, done, CHUNK)
                done += file.write(part.data) if part else 0
            file.truncate(size)
        if part is not None and part.version == version:
            return Brought(version, done >= size)
        part = exchange.fetch(worker, name, 0, CHUNK)  # it changed meanwhile
    return None
