"""Writes checkpoints completely or not at all, with one tensor in memory at a time, and reads them back once."""

import json
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from mergesearch.errors import UserError, listed
from mergesearch.files import atomic_path, ended_by_exception, write_text
from mergesearch.merge_ops.checkpoint.side_files import CHAT_TEMPLATES, TOKENIZER_FILES, side_files
from mergesearch.merge_ops.checkpoint.tensor_files import DTYPE_NAMES, TensorFile, TensorInfo, as_bytes
from mergesearch.merge_ops.checkpoint.weight_files import INDEX_SUFFIX, STEMS, SUFFIX
from mergesearch.merge_ops.inputs.chat_templates import stored_template

SHARD_BYTES = 5 * 10**9


@contextmanager
def written_checkpoint(out: Path, tensors: Mapping[str, TensorInfo], stem: str = STEMS[0]) -> Iterator["Writer"]:
    """Yields a writer to a temporary folder, which is renamed to ``out`` at the end.

    If the block or the verification of the files fails, or the process gets SIGTERM, the temporary folder is removed.
    """
    with ended_by_exception(), new_parents_removed(out), atomic_path(out, durable=False) as temporary:
        temporary.mkdir()
        writer = Writer(temporary, tensors, stem=stem)
        yield writer
        writer.verify()


class Writer:
    """Writes safetensors files whose layout is known in advance, so that no tensor needs to stay in memory.

    Args:
        folder: the folder of the files.
        tensors: the shape and dtype of every tensor.
        shard_bytes: the largest size of a file, unless it has a single tensor.
        stem: the name of the files without the ending.
    """

    def __init__(
        self, folder: Path, tensors: Mapping[str, TensorInfo], shard_bytes: int = SHARD_BYTES, stem: str = STEMS[0]
    ) -> None:
        self.folder = folder
        self._stem = stem
        self._shards = _plan_shards(tensors, shard_bytes)
        self._checksums: dict[Path, dict[str, int]] = {}

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yields each tensor's name and memory to fill. The tensor is written when the next one is requested."""
        names = _shard_names(self._stem, len(self._shards))
        largest = max((info.bytes for shard in self._shards for info in shard.values()), default=0)
        memory = torch.empty(largest, dtype=torch.uint8)
        for file, tensors in zip(names, self._shards, strict=True):
            yield from self._write_shard(self.folder / file, tensors, memory)
        if len(names) > 1:
            self._write_index(names)

    def verify(self) -> None:
        """Reads every tensor back. Raises UserError if one differs from what was written."""
        for path, checksums in self._checksums.items():
            file = TensorFile(path)
            wrong = [name for name, written in checksums.items() if zlib.crc32(as_bytes(file.read(name))) != written]
            if wrong or file.tensors.keys() != checksums.keys():
                raise UserError(f"{path}: what was read back is not what was written: {listed(wrong)}")

    def copy_side_files(self, source: Path, tokenizer: Path | None = None) -> None:
        """Copies config, tokenizer and similar files: their content, not links or permissions.

        Args:
            source: the folder that they are in.
            tokenizer: another folder, from which the tokenizer is taken, and the chat templates if it has any.
        """
        own = side_files(source)
        if tokenizer not in (None, source):
            patterns = (*TOKENIZER_FILES, *(CHAT_TEMPLATES if stored_template(tokenizer) else ()))
            replaced = set(side_files(source, patterns))
            self._copy(tokenizer, side_files(tokenizer, patterns))
            own = (file for file in own if file not in replaced)
        self._copy(source, own)

    def _copy(self, source: Path, files: Iterable[Path]) -> None:
        for file in files:
            target = self.folder / file.relative_to(source)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, target)

    def _write_shard(
        self, path: Path, tensors: Mapping[str, TensorInfo], memory: Tensor
    ) -> Iterator[tuple[str, Tensor]]:
        # Widest dtypes first: then every tensor starts at a multiple of its element size, as the format asks.
        ordered = dict(sorted(tensors.items(), key=lambda entry: (-entry[1].dtype.itemsize, entry[0])))
        checksums = self._checksums.setdefault(path, {})
        with path.open("wb") as file:
            header = _header(ordered)
            _reserve(file, len(header) + sum(info.bytes for info in ordered.values()))
            file.write(header)
            for name, info in ordered.items():
                yield name, memory[: info.bytes].view(info.dtype).view(info.shape)
                data = as_bytes(memory[: info.bytes])
                checksums[name] = zlib.crc32(data)
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
            _drop_from_page_cache(file)

    def _write_index(self, names: Sequence[str]) -> None:
        weight_map = {name: file for file, shard in zip(names, self._shards, strict=True) for name in shard}
        total = sum(info.bytes for shard in self._shards for info in shard.values())
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        write_text(self.folder / (self._stem + INDEX_SUFFIX), json.dumps(index, indent=2) + "\n")


def _plan_shards(tensors: Mapping[str, TensorInfo], limit: int) -> list[dict[str, TensorInfo]]:
    shards: list[dict[str, TensorInfo]] = [{}]
    free = limit
    for name, info in tensors.items():
        if info.bytes > free and shards[-1]:
            shards.append({})
            free = limit
        shards[-1][name] = info
        free -= info.bytes
    return shards


def _shard_names(stem: str, count: int) -> list[str]:
    if count == 1:
        return [f"{stem}{SUFFIX}"]
    return [f"{stem}-{i + 1:05d}-of-{count:05d}{SUFFIX}" for i in range(count)]


def _reserve(file: BinaryIO, size: int) -> None:
    """Allocates the space on disk, so that a full disk is an error before anything is written."""
    if hasattr(os, "posix_fallocate") and size:
        os.posix_fallocate(file.fileno(), 0, size)


def _drop_from_page_cache(file: BinaryIO) -> None:
    """Makes the verification read the disk."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _header(tensors: Mapping[str, TensorInfo]) -> bytes:
    entries, end = {}, 0
    for name, info in tensors.items():
        start, end = end, end + info.bytes
        entries[name] = {
            "dtype": DTYPE_NAMES[info.dtype],
            "shape": list(info.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps({"__metadata__": {"format": "pt"}, **entries}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


@contextmanager
def new_parents_removed(out: Path) -> Iterator[None]:
    """Removes the parent folders that the block created for ``out``, if ``out`` does not exist at the end."""
    new = [parent for parent in out.absolute().parents if not parent.exists()]
    try:
        yield
    finally:
        for parent in new:
            if not out.exists() and parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
