"""The kernels of ``kernels.c`` for inner products: of whole tensors, rows and columns."""

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mergesearch.merge_ops.kernels.native_backend import CTensor, library, reads
from mergesearch.merge_ops.kernels.threads import SPAN, run_spans

__all__ = ["column_grams", "gram", "inner_products", "reads", "row_grams"]

COLUMN_SPAN = 1 << 20
"""Elements that a thread takes at a time for sums of columns. Each span has sums of its own."""


def gram(tensors: Sequence[Tensor], base: Tensor | None) -> list[list[list[float]]]:
    """Returns the inner products of flat tensors in a matrix for each span. Only the upper halves are filled."""
    size, count = tensors[0].numel(), len(tensors)
    sums = np.zeros((max(1, -(-size // SPAN)), count, count))
    kernel, inputs = _kernels().gram, _Inputs(tensors, base)

    def work(start: int, end: int) -> None:
        if kernel(*inputs.arguments, start, end, sums[start // SPAN].ctypes.data):
            raise MemoryError

    run_spans(size, work)
    return sums.tolist()


def row_grams(tensors: Sequence[Tensor], base: Tensor | None, rows: int, length: int) -> NDArray[np.float64]:
    """Returns [rows, k, k]: the inner products of contiguous tensors in each row. Only the upper halves are filled."""
    sums, step = np.zeros((rows, len(tensors), len(tensors))), max(1, SPAN // max(1, length))
    kernel, inputs = _kernels().row_grams, _Inputs(tensors, base)

    def work(start: int, end: int) -> None:
        if kernel(*inputs.arguments, length, start, end, sums.ctypes.data):
            raise MemoryError

    run_spans(rows, work, step)
    return sums


def column_grams(tensors: Sequence[Tensor], base: Tensor | None, rows: int, columns: int) -> NDArray[np.float64]:
    """Returns [k, k, columns]: the inner products in each column. Only the upper halves are filled."""
    step = max(1, COLUMN_SPAN // max(1, columns))
    sums = np.zeros((max(1, -(-rows // step)), len(tensors), len(tensors), columns))
    kernel, inputs = _kernels().column_grams, _Inputs(tensors, base)

    def work(start: int, end: int) -> None:
        if kernel(*inputs.arguments, columns, start, end, sums[start // step].ctypes.data):
            raise MemoryError

    run_spans(rows, work, step)
    return np.asarray(sums.sum(0))


class _Inputs:
    """The first arguments of kernels: the base, the tensors and their number."""

    def __init__(self, tensors: Sequence[Tensor], base: Tensor | None) -> None:
        c_tensors = (CTensor * len(tensors))(*map(CTensor.of, tensors))
        self.arguments = CTensor.of(base), c_tensors, len(tensors)


def inner_products(
    vector: Tensor, base: Tensor | None, tensors: Sequence[Tensor], relative: bool
) -> NDArray[np.float64]:
    """Returns [spans, 1 + tensors]: see ``kernels.inner_products``, for each span of flat tensors."""
    size, c_vector = vector.numel(), CTensor.of(vector)
    sums = np.zeros((max(1, -(-size // SPAN)), 1 + len(tensors)))
    kernel, inputs = _kernels().inner_products, _Inputs(tensors, base)

    def work(start: int, end: int) -> None:
        kernel(c_vector, *inputs.arguments, relative, start, end, sums[start // SPAN].ctypes.data)

    run_spans(size, work)
    return sums


@cache
def _kernels() -> Any:
    kernels, size, tensors = library(), ctypes.c_int64, ctypes.POINTER(CTensor)
    assert kernels is not None
    kernels.gram.argtypes = (CTensor, tensors, size, size, size, ctypes.c_void_p)
    kernels.gram.restype = ctypes.c_int
    kernels.row_grams.argtypes = (CTensor, tensors, size, size, size, size, ctypes.c_void_p)
    kernels.row_grams.restype = ctypes.c_int
    kernels.column_grams.argtypes = (CTensor, tensors, size, size, size, size, ctypes.c_void_p)
    kernels.column_grams.restype = ctypes.c_int
    kernels.inner_products.argtypes = (CTensor, CTensor, tensors, size, ctypes.c_int, size, size, ctypes.c_void_p)
    kernels.inner_products.restype = None
    return kernels
