"""Safetensors files, read tensor by tensor into memory of their own.

Files are not memory-mapped: mapped pages count as the process's memory for as long as the file is open. Here the memory
of a tensor is free as soon as the tensor is dropped. Processes that share checkpoints map them, so that the machine has
each page once.
"""

import json
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from io import FileIO
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mergesearch.errors import UserError, first_line
from mergesearch.merge_ops.checkpoint.pages import allocated
from mergesearch.merge_ops.checkpoint.sharing import sharing_processes
from mergesearch.reading import check_file

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
SAMPLE_BYTES = 64
ALIGNED = 8
"""The bytes to which the place of a tensor in a file is a multiple, in files as the library writes them."""
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
LFS_POINTER = b"version https://git-lfs"
"""How a file begins that Git LFS would replace by the true one."""


@dataclass(frozen=True)
class TensorInfo:
    """Shape and dtype of a tensor, as in a file's header."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """The size of the data in bytes."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


@dataclass(frozen=True)
class StoredBytes:
    """The place of a tensor's bytes in a file."""

    path: Path
    start: int
    count: int

    def read(self) -> Tensor:
        """Reads them to the CPU, as a flat tensor of bytes."""
        data = allocated(self.count)
        if self.count:
            with self.path.open("rb", buffering=0) as file:
                if hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(file.fileno(), self.start, self.count, os.POSIX_FADV_WILLNEED)
                file.seek(self.start)
                self._fill(file, as_bytes(data))
        return data

    def truncated(self, missing: int) -> UserError:
        """Returns the error of a file that ends before the tensor."""
        return UserError(f"{self.path}: is truncated: {missing} bytes of a tensor are missing")

    def _fill(self, file: FileIO, view: memoryview) -> None:
        while view:
            count = file.readinto(view)
            if not count:
                raise self.truncated(len(view))
            view = view[count:]


class TensorFile:
    """One ``.safetensors`` file. The header is read on first access. Raises UserError if the file is not readable."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        """Every tensor by name, sorted by name."""
        return {name: self._info(name, entry) for name, entry in self._header.items()}

    @cached_property
    def stored_dtypes(self) -> dict[str, str]:
        """The dtype of every tensor as the header names it, supported or not."""
        return {name: str(entry.get("dtype")) for name, entry in self._header.items()}

    def read(self, name: str) -> Tensor:
        """Reads one tensor to the CPU, or maps it there; see ``sharing_processes``."""
        info, stored = self.tensors[name], self.stored(name)
        data = self._mapped(stored) if sharing_processes() > 1 else stored.read()
        return data.view(info.dtype).view(info.shape)

    def _mapped(self, stored: StoredBytes) -> Tensor:
        """Bytes of the file, flat uint8: pages that other processes have too, until somebody writes to the tensor."""
        end = stored.start + stored.count
        if end > len(self._map):
            raise stored.truncated(end - len(self._map))
        is_aligned = stored.count and stored.start % ALIGNED == 0
        if not is_aligned:
            return stored.read()
        return torch.frombuffer(self._map, dtype=torch.uint8, offset=stored.start, count=stored.count)

    @cached_property
    def _map(self) -> mmap.mmap:
        with self.path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def stored(self, name: str) -> StoredBytes:
        """Returns the place of a tensor's bytes."""
        start = self._header[name]["data_offsets"][0]
        return StoredBytes(self.path, self._data_start + start, self.tensors[name].bytes)

    def samples(self) -> dict[str, bytes]:
        """Returns up to ``SAMPLE_BYTES`` bytes from the middle of every tensor."""
        samples = {}
        with self.path.open("rb", buffering=0) as file:
            for name, info in self.tensors.items():
                middle = info.bytes // info.dtype.itemsize // 2 * info.dtype.itemsize
                file.seek(self._data_start + self._header[name]["data_offsets"][0] + middle)
                samples[name] = file.read(min(SAMPLE_BYTES, info.bytes - middle))
        return samples

    @cached_property
    def _header(self) -> dict[str, Any]:
        check_file(self.path)
        try:
            with safe_open(str(self.path), framework="np"):
                pass  # the library reads the header, and refuses it unless it is valid in every respect
            with self.path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(length))
        except (SafetensorError, OSError, ValueError) as error:
            raise self._unreadable(error) from None
        header.pop("__metadata__", None)
        self._data_start = 8 + length
        return {name: _entry(header[name]) for name in sorted(header)}

    def _unreadable(self, error: Exception) -> UserError:
        if isinstance(error, SafetensorError):
            with self.path.open("rb") as file:
                start = file.read(len(LFS_POINTER))
            if start == LFS_POINTER:
                return UserError(f"{self.path}: is a pointer of Git LFS, not the file; run git lfs pull")
        return UserError(f"{self.path}: is not a readable safetensors file: {first_line(error)}")

    def _info(self, name: str, entry: Mapping[str, Any]) -> TensorInfo:
        dtype = DTYPES.get(entry["dtype"])
        if dtype is None:
            raise UserError(f"{self.path}: {name} has dtype {entry['dtype']}, expected one of {', '.join(DTYPES)}")
        return TensorInfo(tuple(entry["shape"]), dtype)


def _entry(entry: Any) -> dict[str, Any]:
    """The entry of one tensor. The library also takes a list of its values."""
    return dict(zip(("dtype", "shape", "data_offsets"), entry, strict=True)) if isinstance(entry, list) else entry


def as_bytes(data: Tensor) -> memoryview:
    """Returns the memory of a contiguous tensor on the CPU."""
    return data.reshape(-1).view(torch.uint8).numpy().data
