"""What selects elements by the rank of a number, in passes over memory that copy no tensor.

A key is the bit pattern of an element's number as an integer, in the order of the numbers. How often each value of its
upper bits occurs says in which range of keys a rank falls, and a second pass over the keys of this range says where
(radix selection). Counts are integers, so that they do not depend on the device or the number of threads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from math import fsum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mergesearch.merge_ops.kernels import native_backend, native_selection
from mergesearch.merge_ops.kernels.blocks import blocks
from mergesearch.merge_ops.kernels.numbers import Digit, Numbers, keys_of
from mergesearch.merge_ops.kernels.threads import run_spans


@dataclass(frozen=True)
class Counts:
    """How many keys have each value of a digit that occurs, the smallest first, and the sum of their lower bits.

    The sums are exact for float32.
    """

    values: NDArray[np.int64]
    counts: NDArray[np.int64]
    lows: NDArray[np.float64]

    @classmethod
    def of(cls, digit: Digit, counts: NDArray[Any], lows: NDArray[Any]) -> list["Counts"]:
        """Returns the counts of each range of the digit, from [ranges, count] counts and sums."""
        found = [np.flatnonzero(row) for row in counts]
        ranges = zip(digit.firsts, found, counts, lows, strict=True)
        return [cls(kept + first, own[kept], sums[kept].astype(np.float64)) for first, kept, own, sums in ranges]

    @classmethod
    def joined(cls, parts: Sequence["Counts"]) -> "Counts":
        """Returns the sums of several counts of one digit."""
        if len(parts) == 1:
            return parts[0]
        every = np.concatenate([np.zeros(0, np.int64), *(part.values for part in parts)])
        values, places = np.unique(every, return_inverse=True)
        counts, lows = (
            np.bincount(places, np.concatenate([np.zeros(0), *columns]), values.size)
            for columns in ([part.counts for part in parts], [part.lows for part in parts])
        )
        return cls(values, counts.astype(np.int64), lows.astype(np.float64))


def count_keys(numbers: Numbers, digit: Digit, dtype: torch.dtype) -> list[Counts]:
    """Counts the keys of each range of a digit, in one pass over memory.

    ``dtype`` is that of the numbers, or a wider one.
    """
    base, models = numbers.flat()
    if dtype == torch.float64:
        return _count_in_torch(numbers, digit, dtype)
    if native_selection.reads([base, *models]):
        counts, lows = native_selection.count_keys(numbers, base, models, digit)
    elif _is_for_triton([base, *models]):
        from mergesearch.merge_ops.kernels import triton_backend

        counts, lows = triton_backend.count_keys(numbers, base, models, digit)
    else:
        return _count_in_torch(numbers, digit, dtype)
    if digit.takes_all:  # the kernels leave out zeros, which may be most
        counts[0, -digit.firsts[0]] += numbers.size - counts.sum()
    return Counts.of(digit, counts, lows)


def _is_for_triton(tensors: Sequence[Tensor]) -> bool:
    is_served = all(tensor.is_cuda and tensor.dtype in native_backend.DTYPES for tensor in tensors)
    return is_served and find_spec("triton") is not None


def _count_in_torch(numbers: Numbers, digit: Digit, dtype: torch.dtype) -> list[Counts]:
    device, shape = numbers.base.device, (len(digit.firsts), digit.count)
    counts = torch.zeros(shape, dtype=torch.int64, device=device)
    lows = torch.zeros(shape, dtype=torch.float64, device=device)
    for block in numbers.blocks():
        keys = keys_of(block.to(dtype), numbers.signed)
        low = (keys & ((1 << digit.shift) - 1)).double()
        for i, first in enumerate(digit.firsts):
            places = (keys >> digit.shift) - first
            mine = (places >= 0) & (places < digit.count)
            counts[i] += places[mine].bincount(minlength=digit.count)
            lows[i] += places[mine].bincount(low[mine], minlength=digit.count)
    return Counts.of(digit, counts.cpu().numpy(), lows.cpu().numpy())


def energies(numbers: Numbers, least: float) -> tuple[float, ...]:
    """Returns ``Σ δ_i²`` of each model over the elements whose number is at least ``least``, in float64.

    The sums of spans are added without rounding, so that the result does not depend on the threads.
    """
    base, models = numbers.flat()
    if native_selection.reads([base, *models]):
        spans = native_selection.energies(numbers, base, models, least)
        return tuple(map(fsum, spans.T))
    sums: dict[int, list[float]] = {}

    def work(start: int, end: int) -> None:
        found, deltas = numbers.block(base, models, start, end)
        kept = found >= least
        sums[start] = [(delta.double().square() * kept).sum().item() for delta in deltas]

    run_spans(numbers.size, work)
    return tuple(fsum(sums[start][i] for start in sums) for i in range(len(models)))


def changes(base: Tensor, models: Sequence[Tensor], epsilon: float) -> list[tuple[int, int]]:
    """Returns, for each model, how many elements it and others changed by more than ``epsilon``, and it alone."""
    flat_base, flat = base.contiguous().view(-1), [model.contiguous().view(-1) for model in models]
    if native_selection.reads([flat_base, *flat]):
        return [(int(shared), int(single)) for shared, single in native_selection.changes(flat_base, flat, epsilon)]
    total = torch.zeros(len(models), 2, dtype=torch.int64, device=base.device)
    for _, (base_block, *model_blocks) in blocks([flat_base, *flat]):
        changed = torch.stack([(block - base_block).abs() > epsilon for block in model_blocks])
        count = changed.sum(0)
        total += torch.stack([(changed & (count > 1)).sum(1), (changed & (count == 1)).sum(1)], dim=1)
    return [(shared, single) for shared, single in total.tolist()]
