"""A number for each element of a tensor, by which elements are selected, and the keys of these numbers.

A key is the bit pattern of a number as an integer, in the order of the numbers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mergesearch.merge_ops.kernels.blocks import wide_dtype
from mergesearch.merge_ops.kernels.rowwise import row_of
from mergesearch.merge_ops.kernels.torch_backend import spread_of

CPU_BLOCK = 1 << 16
GPU_BLOCK = 1 << 24
Kind = Literal["magnitude", "spread", "importance"]


@dataclass(frozen=True)
class Numbers:
    """A number for each element of a tensor, computed in ``dtype`` where it is needed.

    * ``magnitude``: |δ| of one model
    * ``spread``: ``Σ_i (δ_i − mean δ)²`` of all models
    * ``importance``: |δ| of one model times the factor of the element's row (along the last axis)
    """

    kind: Kind
    base: Tensor
    models: Sequence[Tensor]
    factors: Tensor | None = None

    @property
    def size(self) -> int:
        """The number of elements."""
        return self.base.numel()

    @property
    def row(self) -> int:
        """The length of a row."""
        return self.base.shape[-1] if self.base.dim() else 1

    @property
    def signed(self) -> bool:
        """Whether numbers may be negative: rounding may leave a row that hardly changed with a factor below zero."""
        return self.kind == "importance"

    @property
    def dtype(self) -> torch.dtype:
        """float32, or float64 if a tensor is float64."""
        return wide_dtype([self.base, *self.models])

    def flat(self) -> tuple[Tensor, list[Tensor]]:
        """Returns the base and the models as flat contiguous tensors."""
        return self.base.contiguous().view(-1), [model.contiguous().view(-1) for model in self.models]

    def blocks(self) -> Iterator[Tensor]:
        """Yields the numbers of one block after the other."""
        (base, models), block = self.flat(), CPU_BLOCK if self.base.device.type == "cpu" else GPU_BLOCK
        for start in range(0, self.size, block):
            yield self.block(base, models, start, start + block)[0]

    def block(self, base: Tensor, models: Sequence[Tensor], start: int, end: int) -> tuple[Tensor, list[Tensor]]:
        """Returns the numbers of the elements start to end, and their task vectors, from ``flat`` tensors."""
        wide, span = self.dtype, slice(start, end)
        origin = base[span].to(wide)
        deltas = [model[span].to(wide) - origin for model in models]
        if self.kind == "spread":
            return spread_of(deltas), deltas
        if self.factors is None:
            return deltas[0].abs(), deltas
        rows = row_of(self.base.shape)(start, origin.numel(), base.device)
        return deltas[0].abs() * self.factors[rows], deltas


@dataclass(frozen=True)
class Digit:
    """Some bits of the keys of one or several ranges.

    In each range, which begins at one of ``firsts``, it is ``(key >> shift) − first`` of the keys where this is at
    least 0 and less than ``count``.
    """

    shift: int
    count: int
    firsts: tuple[int, ...]

    @property
    def takes_all(self) -> bool:
        """Whether it is a digit of all keys of float32 numbers."""
        return self.count << self.shift >= 1 << 31


def keys_of(numbers: Tensor, signed: bool = False) -> Tensor:
    """Returns int64 keys of float32 or float64 numbers. NaN has the largest, and −0 the one before that of 0."""
    bits = numbers.view(torch.int32 if numbers.dtype == torch.float32 else torch.int64)
    largest = torch.iinfo(bits.dtype).max
    return (torch.where(bits < 0, bits ^ largest, bits) if signed else bits & largest).long()
