"""Inner products of several tensors. Each tensor is read from memory once, and the sums are in float64.

The sums of spans of a fixed size are added without rounding, so that the result does not depend on the threads.
"""

from collections.abc import Sequence
from math import fsum

import torch
from torch import Tensor

from mergesearch.merge_ops.kernels import native_products
from mergesearch.merge_ops.kernels.threads import run_spans

BLOCK = 1 << 14
GPU_BLOCK = 1 << 22
Matrix = list[list[float]]


def gram(tensors: Sequence[Tensor], base: Tensor | None = None) -> Matrix:
    """Returns ``⟨x_i − b, x_j − b⟩`` of tensors as flat vectors. b is 0 without ``base``."""
    flat = [tensor.contiguous().view(-1) for tensor in tensors]
    flat_base = None if base is None else base.contiguous().view(-1)
    if native_products.reads([*flat, *([] if flat_base is None else [flat_base])]):
        return _sum(native_products.gram(flat, flat_base))
    return _sum(_torch_gram(flat, flat_base))


def _sum(matrices: Sequence[Matrix]) -> Matrix:
    """Returns the sum of the upper halves as a symmetric matrix."""
    size = len(matrices[0])
    upper = [[fsum(m[i][j] for m in matrices) if i <= j else 0.0 for j in range(size)] for i in range(size)]
    return [[upper[min(i, j)][max(i, j)] for j in range(size)] for i in range(size)]


def _torch_gram(tensors: Sequence[Tensor], base: Tensor | None) -> list[Matrix]:
    """Returns the inner products of each block."""
    on_cpu = tensors[0].device.type == "cpu"
    size, step = tensors[0].numel(), BLOCK if on_cpu else GPU_BLOCK
    blocks: dict[int, Matrix] = {}

    def work(start: int, end: int) -> None:
        for first in range(start, end, step):
            blocks[first] = _block_gram(tensors, base, slice(first, min(first + step, end)))

    if on_cpu:
        run_spans(size, work)
    else:
        work(0, size)
    return [blocks[start] for start in sorted(blocks)] or [_block_gram(tensors, base, slice(0, 0))]


def _block_gram(tensors: Sequence[Tensor], base: Tensor | None, block: slice) -> Matrix:
    wide = torch.stack([tensor[block].double() for tensor in tensors])
    if base is not None:
        wide -= base[block].double()
    # Not a matrix product: it may use fewer digits on a GPU, and add in another order on other threads.
    products = [[torch.dot(a, b) for b in wide] for a in wide]
    return [[value.item() for value in row] for row in products]
