"""Inner products of several tensors at once: each is read from memory once, and the sums are in float64.

The sums of spans of a fixed size are added without rounding, so that the result does not depend on the threads.
"""

from collections.abc import Sequence
from math import fsum

import torch
from torch import Tensor

from mergesearch.merge_ops.kernels import native_backend as native
from mergesearch.merge_ops.kernels.threads import spread

BLOCK = 1 << 14
GPU_BLOCK = 1 << 22
Matrix = list[list[float]]


def gram(tensors: Sequence[Tensor], base: Tensor | None = None) -> Matrix:
    """``⟨x_i − b, x_j − b⟩`` of tensors as flat vectors (b = 0 where ``base`` is None)."""
    flat = [tensor.contiguous().view(-1) for tensor in tensors]
    origin = None if base is None else base.contiguous().view(-1)
    if native.reads([*flat, *([] if origin is None else [origin])]):
        return _summed(native.gram(flat, origin))
    return _summed(_gram(flat, origin))


def _summed(parts: Sequence[Matrix]) -> Matrix:
    """The sum of the parts' upper halves, made symmetric."""
    size = len(parts[0])
    upper = [[fsum(part[i][j] for part in parts) if i <= j else 0.0 for j in range(size)] for i in range(size)]
    return [[upper[min(i, j)][max(i, j)] for j in range(size)] for i in range(size)]


def _gram(tensors: Sequence[Tensor], base: Tensor | None) -> list[Matrix]:
    size, step = tensors[0].numel(), BLOCK if tensors[0].device.type == "cpu" else GPU_BLOCK
    parts: dict[int, Matrix] = {}

    def work(start: int, end: int) -> None:
        for first in range(start, end, step):
            parts[first] = _block(tensors, base, slice(first, min(first + step, end)))

    if tensors[0].device.type == "cpu":
        spread(size, work)
    else:
        work(0, size)
    return [parts[start] for start in sorted(parts)] or [_block(tensors, base, slice(0, 0))]


def _block(tensors: Sequence[Tensor], base: Tensor | None, block: slice) -> Matrix:
    wide = torch.stack([tensor[block].double() for tensor in tensors])
    if base is not None:
        wide -= base[block].double()
    # Not a matrix product, which may use fewer digits on a GPU and other sums on other threads.
    products = [[torch.dot(a, b) for b in wide] for a in wide]
    return [[value.item() for value in row] for row in products]
