"""The numbers of elements in the order of their size: any rank, and the count and sum of all from any number on."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import inf

import numpy as np
import torch
from numpy.typing import NDArray

from mergesearch.merge_ops.kernels.numbers import Digit, Numbers, keys_of
from mergesearch.merge_ops.kernels.selection import Counts, count_keys

SORTED = 1 << 14
"""Up to so many elements are sorted: that takes no longer than to count two digits of one rank."""
TABLE = 1 << 16
"""The largest number of entries of a table, and of refined ranges that are kept; of those, the oldest are forgotten."""
ENTRY = 8 + 8 + 8 + 1
"""Bytes of an entry: key, count, sum, and whether all its keys are equal."""
Keys = NDArray[np.int64]
Key = tuple[int, int]
"""The shift of an entry, and its first key."""


@dataclass(frozen=True)
class Layout:
    """The keys of float32 or float64 numbers, and the digits in which they are counted, the highest first."""

    dtype: torch.dtype
    signed: bool

    @property
    def whole(self) -> Digit:
        """The first digit of all keys."""
        top = (32 if self.dtype == torch.float32 else 64) - (not self.signed)
        return Digit(top - 16, 1 << 16, (-(1 << 15) if self.signed else 0,))

    def within(self, shift: int, starts: Sequence[int]) -> Digit:
        """The next digit of the keys from each of ``starts`` on that differ in their lowest ``shift`` bits only."""
        lower = max(0, shift - 16)
        return Digit(lower, 1 << (shift - lower), tuple(start >> lower for start in starts))

    def numbers(self, keys: Keys) -> NDArray[np.float64]:
        """Returns the numbers of keys."""
        real, whole = (np.float32, np.int32) if self.dtype == torch.float32 else (np.float64, np.int64)
        bits = np.where(keys < 0, keys ^ np.iinfo(whole).max, keys).astype(whole)
        return bits.view(real).astype(np.float64)

    def key_from(self, number: float) -> int:
        """Returns the key of the smallest number that is at least ``number``."""
        real = np.float32 if self.dtype == torch.float32 else np.float64
        with np.errstate(over="ignore"):
            nearest = real(number)
        least = np.nextafter(nearest, real(inf)) if float(nearest) < number else nearest
        return int(keys_of(torch.tensor([least + 0.0], dtype=self.dtype), signed=True))


@dataclass(frozen=True)
class Range:
    """The keys of one range, largest first, in entries that begin at a key and are ``1 << shift`` wide.

    Attributes:
        shift: how many of a key's bits an entry leaves open.
        starts: the first key of each entry.
        counts: the number of keys from the entry on upwards.
        sums: the sum of their numbers.
        exact: whether all keys of the entry are equal to its first.
    """

    shift: int
    starts: Keys
    counts: NDArray[np.int64]
    sums: NDArray[np.float64]
    exact: NDArray[np.bool_]

    @classmethod
    def of(cls, layout: Layout, shift: int, found: Counts) -> "Range":
        """Returns the range of a digit with this shift."""
        starts, counts, lows = found.values[::-1] << shift, found.counts[::-1], found.lows[::-1]
        first = layout.numbers(starts)
        with np.errstate(invalid="ignore"):  # infinite numbers
            # Neighboring numbers of an entry are equally far apart.
            rest = np.where(lows > 0, lows * (layout.numbers(starts + 1) - first), 0)
            sums = (counts * first + rest).cumsum()
        return cls(shift, starts, counts.cumsum(), sums, lows == 0)

    def key(self, entry: int) -> Key:
        """Returns what an entry's own range is known by."""
        return self.shift, int(self.starts[entry])

    def above(self, entry: int) -> tuple[int, float]:
        """Returns the number and sum of the keys above an entry."""
        return (int(self.counts[entry - 1]), float(self.sums[entry - 1])) if entry else (0, 0.0)


@dataclass
class Ranges:
    """What is known of the elements: all that a ``Ranking`` keeps. It does not refer to tensors."""

    layout: Layout = Layout(torch.float32, signed=False)
    whole: Range | None = None
    refined: dict[Key, Range] = field(default_factory=dict)


def table_bytes(size: int) -> int:
    """Returns the bytes of what is kept of so many elements at most."""
    return 2 * ENTRY * min(size, TABLE)


class Ranking:
    """The ``Quantiles`` of the contract of methods, exact for every rank and every number.

    The counts of the first digit of all keys are a table. A rank falls in one of its entries; unless the keys of this
    entry are equal, one more pass over memory refines it (three more for float64).

    Args:
        parts: returns the numbers, tensor by tensor. It is called for every pass.
        ranges: what is known already.
        size: the number of elements, if it is known.
    """

    def __init__(self, parts: Callable[[], Iterable[Numbers]], ranges: Ranges, size: int | None = None) -> None:
        self._parts, self._ranges, self._size = parts, ranges, size

    @property
    def size(self) -> int:
        """The number of elements."""
        return self._whole.above(self._whole.counts.size)[0] if self._size is None else self._size

    @property
    def total(self) -> float:
        """The sum of all numbers."""
        return self._whole.above(self._whole.counts.size)[1]

    def largest(self, rank: int) -> float:
        """Returns the ``rank``-th largest number, counted from 1."""
        return self.largest_of([rank])[0]

    def largest_of(self, ranks: Sequence[int]) -> list[float]:
        """Returns the numbers of several ranks, in as many passes as one rank takes."""
        found, left = [self._whole] * len(ranks), list(ranks)
        while True:
            entries = [int(np.searchsorted(each.counts, rank)) for each, rank in zip(found, left, strict=True)]
            open_ = [i for i, entry in enumerate(entries) if not found[i].exact[entry]]
            if not open_:
                return [self._number(each, entry) for each, entry in zip(found, entries, strict=True)]
            left = [left[i] - found[i].above(entry)[0] if i in open_ else left[i] for i, entry in enumerate(entries)]
            for i, refined in zip(open_, self._refined([found[i].key(entries[i]) for i in open_]), strict=True):
                found[i] = refined

    def _number(self, found: Range, entry: int) -> float:
        return float(self._layout.numbers(found.starts[entry : entry + 1])[0])

    def count_from(self, threshold: float) -> int:
        """Returns how many numbers are at least ``threshold``."""
        return self._from(threshold)[0]

    def sum_from(self, threshold: float) -> float:
        """Returns the sum of the numbers that are at least ``threshold``."""
        return self._from(threshold)[1]

    def _from(self, threshold: float) -> tuple[int, float]:
        found, count, total = self._whole, 0, 0.0
        key = self._layout.key_from(threshold)
        while True:
            entry = found.starts.size - int(np.searchsorted(found.starts[::-1], key))
            more, sum_of_more = found.above(entry)
            count, total = count + more, total + sum_of_more
            is_apart = entry == found.starts.size or key >= int(found.starts[entry]) + (1 << found.shift)
            if is_apart or found.exact[entry]:
                return count, total
            (found,) = self._refined([found.key(entry)])

    @property
    def _layout(self) -> Layout:
        return self._ranges.layout

    @property
    def _whole(self) -> Range:
        if self._ranges.whole is None:
            small = self._size is not None and self._size <= SORTED
            self._ranges.whole = self._sorted() if small else self._counted()
        return self._ranges.whole

    def _sorted(self) -> Range:
        (numbers,) = self._parts()
        self._ranges.layout = layout = replace(self._layout, dtype=numbers.dtype)
        keys = [keys_of(block, layout.signed).cpu().numpy() for block in numbers.blocks()]
        starts, counts = np.unique(np.concatenate([*keys, np.zeros(0, np.int64)]), return_counts=True)
        return Range.of(layout, 0, Counts(starts, counts, np.zeros(starts.size)))

    def _counted(self) -> Range:
        if (found := self._count(self._layout.whole)) is None:
            self._ranges.layout = replace(self._layout, dtype=torch.float64)
            found = self._count(self._layout.whole)
        assert found is not None
        return found[0]

    def _count(self, digit: Digit) -> list[Range] | None:
        """Counts a digit's ranges in one pass. Returns None if a part has a wider dtype than the layout."""
        layout, found = self._layout, []
        for numbers in self._parts():
            if torch.promote_types(numbers.dtype, layout.dtype) != layout.dtype:
                return None
            found.append(count_keys(numbers, digit, layout.dtype))
        of_ranges = ([part[i] for part in found] for i in range(len(digit.firsts)))
        return [Range.of(layout, digit.shift, Counts.joined(parts)) for parts in of_ranges]

    def _refined(self, keys: Sequence[Key]) -> list[Range]:
        """Returns the ranges of entries. Those that are not known are counted, those of one width in one pass."""
        known = dict(self._ranges.refined)
        missing = [key for key in dict.fromkeys(keys) if key not in known]
        for shift in {shift for shift, _ in missing}:
            same = [key for key in missing if key[0] == shift]
            counted = self._count(self._layout.within(shift, [start for _, start in same]))
            assert counted is not None
            known.update(zip(same, counted, strict=True))
        if missing:
            self._ranges.refined = _newest(known)
        return [known[key] for key in keys]


def _newest(ranges: dict[Key, Range]) -> dict[Key, Range]:
    """Returns the ranges that were added last, up to TABLE entries."""
    entries = np.cumsum([found.starts.size for found in reversed(ranges.values())])
    kept = int(np.searchsorted(entries, TABLE, side="right"))
    return dict(list(ranges.items())[len(ranges) - kept :])
