"""Tensors piece by piece, in the dtype that everything is computed in."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

STEP = 1 << 18


def wide_dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    """float64 where an input is, else float32."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def blocks(tensors: Sequence[Tensor]) -> Iterator[tuple[int, list[Tensor]]]:
    """Where a piece starts and that piece of each tensor, flat, one after the other."""
    wide, flat = wide_dtype(tensors), [tensor.reshape(-1) for tensor in tensors]
    for start in range(0, flat[0].numel(), STEP):
        yield start, [tensor[start : start + STEP].to(wide) for tensor in flat]
