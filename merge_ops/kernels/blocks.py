"""Iteration over tensors in blocks, in the dtype that kernels compute in."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

BLOCK = 1 << 18


def wide_dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    """Returns the dtype that kernels compute in: float64 if a tensor is float64, else float32."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def blocks(tensors: Sequence[Tensor], block: int = BLOCK) -> Iterator[tuple[int, list[Tensor]]]:
    """Yields the start of each block and the block of every tensor, flat and in ``wide_dtype``."""
    wide, flat = wide_dtype(tensors), [tensor.reshape(-1) for tensor in tensors]
    for start in range(0, flat[0].numel(), block):
        yield start, [tensor[start : start + block].to(wide) for tensor in flat]
