"""What a checkpoint consists of, by content: digests of its tensors and of the files beside them."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mergesearch.files import digest
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint, tensors_digest
from mergesearch.merge_ops.checkpoint.quantization import signs_of_quantization
from mergesearch.merge_ops.checkpoint.side_files import side_files

HEADER_BYTES = 8
"""The size of a safetensors header stands in so many bytes at the beginning of the file."""
DIGITS = 32


@dataclass(frozen=True)
class CheckpointContent:
    """A checkpoint's content.

    Attributes:
        states: size, times of modification and of change in ns, inode, and digest of the header of each file with
            tensors, by name. Copies may keep the time of modification, but not the others.
        tensors: a digest of each tensor's dtype, shape and bytes, with the adapter applied. Of a quantized model,
            one of each file.
        files: a digest of each file beside the tensors: config, tokenizer, chat template.
    """

    states: Mapping[str, list[int | str]]
    tensors: Mapping[str, str]
    files: Mapping[str, str]

    @classmethod
    def of(cls, checkpoint: Checkpoint, before: "CheckpointContent | None" = None) -> "CheckpointContent":
        """The content now. The tensors are read unless the states of their files are those of ``before``."""
        states = dict(_states(checkpoint))
        files = {name: digest(path)[:DIGITS] for name, path in _side_files(checkpoint)}
        if before is not None and before.states == states:
            return cls(states, before.tensors, files)
        return cls(states, dict(_tensors(checkpoint)), files)


def stamp(checkpoint: Checkpoint) -> str:
    """A text that is another one as soon as a file of the checkpoint is. No tensors are read."""
    files = {name: digest(path)[:DIGITS] for name, path in _side_files(checkpoint)}
    return repr((checkpoint.reference, dict(_states(checkpoint)), files))


def _tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, str]]:
    """Yields a digest of each tensor; of a quantized model, whose tensors are codes, one of each file."""
    if signs_of_quantization(checkpoint.without_adapter):
        yield from ((name, digest(file)[:DIGITS]) for name, file in _weight_files(checkpoint))
    else:
        yield from ((name, tensor_digest(checkpoint.tensor(name))) for name in checkpoint.tensors)


def tensor_digest(tensor: Tensor) -> str:
    """A digest of a tensor's dtype, shape and bytes."""
    return tensors_digest([(f"{tensor.dtype} {list(tensor.shape)}", tensor)])[:DIGITS]


def _states(checkpoint: Checkpoint) -> Iterator[tuple[str, list[int | str]]]:
    for name, file in _weight_files(checkpoint):
        status = file.stat()
        times = [status.st_mtime_ns, status.st_ctime_ns]
        yield name, [status.st_size, *times, status.st_ino, _head(file)]


def _weight_files(checkpoint: Checkpoint) -> Iterator[tuple[str, Path]]:
    """Yields the files of tensors, and what says how they are read, by name."""
    for index, path in enumerate(checkpoint.paths):
        files = [path] if path.is_file() else sorted([*path.glob("*.safetensors*"), *path.glob("adapter_*.json")])
        yield from ((f"{index}/{file.name}", file) for file in files)


def _head(file: Path) -> str:
    """A digest of a safetensors file's header; of all of another file."""
    if file.suffix != ".safetensors":
        return digest(file)[:DIGITS]
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(HEADER_BYTES), "little")
        return hashlib.sha256(opened.read(size)).hexdigest()[:DIGITS]


def _side_files(checkpoint: Checkpoint) -> Iterator[tuple[str, Path]]:
    """Yields the files beside the weights by name; those of an adapter's folder have its name before theirs."""
    for index, folder in enumerate(checkpoint.paths):
        prefix = f"{folder.name}/" if index else ""
        if folder.is_dir():
            yield from sorted((prefix + file.relative_to(folder).as_posix(), file) for file in side_files(folder))
