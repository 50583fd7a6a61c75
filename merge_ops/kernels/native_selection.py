"""The kernels of ``selection.c``."""

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mergesearch.merge_ops.kernels.native_backend import CTensor, library, reads
from mergesearch.merge_ops.kernels.numbers import Digit, Numbers
from mergesearch.merge_ops.kernels.threads import SPAN, run_on_threads, run_spans

__all__ = ["changes", "count_keys", "energies", "reads", "row_ranks"]

KINDS = ("magnitude", "spread", "importance")


class _Numbers(ctypes.Structure):
    """``struct numbers`` of selection.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("size", "k", "row")),
        ("models", ctypes.POINTER(CTensor)),
        ("base", CTensor),
        ("factors", ctypes.c_void_p),
        ("kind", ctypes.c_int32),
    )


class _Digit(ctypes.Structure):
    """``struct digit`` of selection.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("count", "ranges")),
        ("firsts", ctypes.POINTER(ctypes.c_int64)),
        ("shift", ctypes.c_int32),
    )


def count_keys(
    numbers: Numbers, base: Tensor, models: Sequence[Tensor], digit: Digit
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns [ranges, count] counts and sums of lower bits. Zeros are left out where the digit takes all keys."""
    kernels, struct, next_span = _kernels(), _struct(numbers, base, models), ctypes.c_int64(0)
    ranges = len(digit.firsts)
    counts, lows = np.zeros((2, ranges, digit.count), np.int64)
    c_digit = _Digit(digit.count, ranges, (ctypes.c_int64 * ranges)(*digit.firsts), digit.shift)

    def work() -> None:
        shared = SPAN, ctypes.byref(next_span), counts.ctypes.data, lows.ctypes.data
        if kernels.count_keys(ctypes.byref(struct), c_digit, *shared):
            raise MemoryError

    run_on_threads(work, -(-numbers.size // SPAN))
    return counts, lows


def energies(numbers: Numbers, base: Tensor, models: Sequence[Tensor], least: float) -> NDArray[np.float64]:
    """Returns [spans, models]: see ``selection.energies``, for each span."""
    kernels, struct = _kernels(), _struct(numbers, base, models)
    sums = np.zeros((max(1, -(-numbers.size // SPAN)), len(models)))

    def work(start: int, end: int) -> None:
        if kernels.energies(ctypes.byref(struct), least, start, end, sums[start // SPAN].ctypes.data):
            raise MemoryError

    run_spans(numbers.size, work)
    return sums


def changes(base: Tensor, models: Sequence[Tensor], epsilon: float) -> NDArray[np.int64]:
    """Returns [models, 2]: see ``selection.changes``."""
    kernels, c_base, c_models = _kernels(), CTensor.of(base), (CTensor * len(models))(*map(CTensor.of, models))
    spans = np.zeros((max(1, -(-base.numel() // SPAN)), len(models), 2), np.int64)

    def work(start: int, end: int) -> None:
        kernels.changes(c_base, c_models, len(models), epsilon, start, end, spans[start // SPAN].ctypes.data)

    run_spans(base.numel(), work)
    return np.asarray(spans.sum(0))


def row_ranks(numbers: Numbers, base: Tensor, models: Sequence[Tensor], ranks: Tensor) -> None:
    """Writes the rank of each element's number in its row to ``ranks``, of int16: the bit patterns of uint16."""
    kernels, struct, next_rows = _kernels(), _struct(numbers, base, models), ctypes.c_int64(0)
    rows = max(1, SPAN // numbers.row)

    def work() -> None:
        if kernels.row_ranks(ctypes.byref(struct), rows, ctypes.byref(next_rows), ranks.data_ptr()):
            raise MemoryError

    run_on_threads(work, -(-numbers.size // (rows * numbers.row)))


def _struct(numbers: Numbers, base: Tensor, models: Sequence[Tensor]) -> _Numbers:
    """Returns a struct that keeps the array of its models alive, but no tensor."""
    c_models = (CTensor * len(models))(*map(CTensor.of, models))
    factors = None if numbers.factors is None else numbers.factors.data_ptr()
    kind = KINDS.index(numbers.kind)
    return _Numbers(numbers.size, len(models), numbers.row, c_models, CTensor.of(base), factors, kind)


@cache
def _kernels() -> Any:
    kernels, size, numbers = library(), ctypes.c_int64, ctypes.POINTER(_Numbers)
    assert kernels is not None
    counter, address = ctypes.POINTER(size), ctypes.c_void_p
    kernels.count_keys.argtypes = (numbers, _Digit, size, counter, address, address)
    kernels.energies.argtypes = (numbers, ctypes.c_float, size, size, address)
    kernels.changes.argtypes = (CTensor, ctypes.POINTER(CTensor), size, ctypes.c_float, size, size, address)
    kernels.changes.restype = None
    kernels.row_ranks.argtypes = (numbers, size, counter, address)
    return kernels
