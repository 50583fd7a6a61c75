"""Writes checkpoints completely or not at all, with the memory of one tensor, and proves what was written."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from mergesearch.errors import UserError, listed
from mergesearch.files import atomic_path, ended_by_exception, write_text
from mergesearch.merge_ops.checkpoint.pages import allocated
from mergesearch.merge_ops.checkpoint.side_files import CHAT_TEMPLATES, TOKENIZER_FILES, copy_files, side_files
from mergesearch.merge_ops.checkpoint.tensor_files import DTYPE_NAMES, StoredBytes, TensorFile, TensorInfo
from mergesearch.merge_ops.checkpoint.weight_files import INDEX_SUFFIX, STEMS, SUFFIX
from mergesearch.merge_ops.inputs.chat_templates import stored_template
from mergesearch.merge_ops.output.write_behind import WriteBehind, checksum, write_all

SHARD_BYTES = 5 * 10**9


@contextmanager
def written_checkpoint(
    out: Path, tensors: Mapping[str, TensorInfo], stem: str = STEMS[0], verify: bool = False
) -> Iterator["Writer"]:
    """Yields a writer to a temporary folder, which is renamed to ``out`` at the end.

    If the block or the verification of the files fails, or the process gets SIGTERM, the temporary folder is removed.
    ``verify``: every tensor is read back from the disk.
    """
    with ended_by_exception(), new_parents_removed(out), atomic_path(out, durable=False) as temporary:
        temporary.mkdir()
        writer = Writer(temporary, tensors, stem=stem)
        yield writer
        if verify:
            writer.verify()


class Writer:
    """Writes safetensors files whose layout is known in advance, so that no tensor needs to stay in memory.

    Tensors are written on a thread. Those that wait have at most the memory of the largest one.

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
        self._written: dict[Path, dict[str, int | StoredBytes]] = {}
        self._source: StoredBytes | None = None

    @property
    def names(self) -> list[str]:
        """The names of the tensors, in the order in which they are written."""
        return [name for shard in self._shards for name in _ordered(shard)]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yields each tensor's name and memory to fill. The tensor is written when the next one is requested."""
        names = _shard_names(self._stem, len(self._shards))
        largest = max((info.bytes for shard in self._shards for info in shard.values()), default=0)
        for file, tensors in zip(names, self._shards, strict=True):
            yield from self._write_shard(self.folder / file, _ordered(tensors), largest)
        if len(names) > 1:
            self._write_index(names)

    def copy(self, source: StoredBytes) -> None:
        """Says that the present tensor has the bytes of another file, instead of those in the memory to fill."""
        self._source = source

    def verify(self) -> None:
        """Reads every tensor back from the disk. Raises UserError if one differs from what was written."""
        for path, written in self._written.items():
            _drop_from_page_cache(path)
            file = TensorFile(path)
            wrong = [name for name, expected in written.items() if checksum(file.stored(name).read()) != _sum(expected)]
            if wrong or file.tensors.keys() != written.keys():
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
            copy_files(tokenizer, side_files(tokenizer, patterns), self.folder)
            own = (file for file in own if file not in replaced)
        copy_files(source, own, self.folder)

    def _write_shard(self, path: Path, tensors: Mapping[str, TensorInfo], largest: int) -> Iterator[tuple[str, Tensor]]:
        written = self._written.setdefault(path, {})
        header = _header(tensors)
        offset = len(header)
        with path.open("wb") as file, WriteBehind(file.fileno(), largest) as behind:
            _reserve(file, offset + sum(info.bytes for info in tensors.values()))
            write_all(file.fileno(), memoryview(header), 0)
            for name, info in tensors.items():
                behind.make_room(info.bytes)
                memory = allocated(info.bytes)
                yield name, memory.view(info.dtype).view(info.shape)
                written[name] = self._hand_over(behind, memory, offset)
                del memory
                offset += info.bytes
            behind.finish()

    def _hand_over(self, behind: WriteBehind, memory: Tensor, offset: int) -> int | StoredBytes:
        source, self._source = self._source, None
        if source is None:
            return behind.write(memory, offset)
        behind.copy(source, offset)
        return source

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


def _drop_from_page_cache(path: Path) -> None:
    """Makes the verification read the disk."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _sum(written: int | StoredBytes) -> int:
    """Returns the checksum of what was written, or of the bytes that were copied."""
    return checksum(written.read()) if isinstance(written, StoredBytes) else written


def _ordered(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Widest dtypes first: then every tensor starts at a multiple of its element size, as the format asks."""
    return dict(sorted(tensors.items(), key=lambda entry: (-entry[1].dtype.itemsize, entry[0])))


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
