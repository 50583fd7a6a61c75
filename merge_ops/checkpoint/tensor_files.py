"""Safetensors files, read tensor by tensor into memory of their own.

A mapped file would stay in the process's memory for as long as it is open; read like this, a tensor that is dropped is
gone.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from io import FileIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mergesearch.errors import UserError

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
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TensorInfo:
    """What a file's header says of a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class TensorFile:
    """One ``.safetensors`` file; raises UserError where it is not one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        return {name: self._info(name, entry) for name, entry in self._header.items()}

    def read(self, name: str) -> Tensor:
        """One tensor, on the CPU."""
        info, start = self.tensors[name], self._header[name]["data_offsets"][0]
        data = torch.empty(info.bytes, dtype=torch.uint8)
        if info.bytes:
            with self.path.open("rb", buffering=0) as file:
                file.seek(self._begin + start)
                _fill(file, data, self.path)
        return data.view(info.dtype).view(info.shape)

    @cached_property
    def _header(self) -> dict[str, Any]:
        try:
            size = self.path.stat().st_size
            with self.path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if length > size - 8:
                    raise ValueError("the header is cut off")
                content = json.loads(file.read(length))
            content.pop("__metadata__", None)
            _check(content, size - 8 - length)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{self.path}: is not a readable safetensors file: {error!r}") from None
        self._begin = 8 + length
        return dict(sorted(content.items()))

    def _info(self, name: str, entry: Mapping[str, Any]) -> TensorInfo:
        dtype = DTYPES.get(entry["dtype"])
        if dtype is None:
            raise UserError(f"{self.path}: {name} has dtype {entry['dtype']}, expected one of {', '.join(DTYPES)}")
        info = TensorInfo(tuple(entry["shape"]), dtype)
        start, end = entry["data_offsets"]
        if end - start != info.bytes:
            raise UserError(f"{self.path}: is not a readable safetensors file: {name} has {end - start} bytes")
        return info


def _check(entries: Mapping[str, Any], size: int) -> None:
    """Raises ValueError unless the tensors fill the file without a gap."""
    end = 0
    for start, stop in sorted(entry["data_offsets"] for entry in entries.values()):
        if start != end or stop < start:
            raise ValueError("the tensors' places overlap or leave a gap")
        end = stop
    if end != size:
        raise ValueError(f"it has {size} bytes of tensors, its header says {end}")


def as_bytes(data: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU."""
    return data.reshape(-1).view(torch.uint8).numpy().data


def _fill(file: FileIO, data: Tensor, path: Path) -> None:
    view = as_bytes(data)
    while view:
        count = file.readinto(view)
        if not count:
            raise UserError(f"{path}: is cut off")
        view = view[count:]
