"""Reads tensors on threads before they are asked for, in a known order and with bounded memory."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from torch import Tensor

from mergesearch.merge_ops.inputs.tensor_cache import Key

THREADS = 4


class ReadAhead:
    """The inputs of one tensor of the result after the other.

    Args:
        groups: the keys that each tensor of the result reads, in the order of the result.
        sizes: the bytes of each key.
        read: reads a tensor from a reference and a name; on several threads at once.
    """

    def __init__(
        self, groups: Sequence[Sequence[Key]], sizes: Callable[[Key], int], read: Callable[[str, str], Tensor]
    ) -> None:
        self._read = read
        unique = [list(dict.fromkeys(group)) for group in groups]
        self._coming = deque((group, sum(map(sizes, group))) for group in unique)
        self._budget = max((size for _, size in self._coming), default=0)
        self._held: deque[tuple[dict[Key, Future[Tensor]], int]] = deque()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="read")
        self._begun = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._held.clear()
        self._pool.shutdown(cancel_futures=True)

    def advance(self) -> None:
        """Goes on to the next tensor of the result, and begins to read as many as the largest one's memory holds."""
        if self._begun:
            self._held.popleft()
        self._begun = True
        while self._coming and (not self._held or self._bytes + self._coming[0][1] <= self._budget):
            keys, size = self._coming.popleft()
            self._held.append(({key: self._pool.submit(self._read, *key) for key in keys}, size))

    def tensor(self, reference: str, name: str) -> Tensor:
        """Returns a tensor, which is read now if it is none of the present group, or is asked for again."""
        present = self._held[0][0] if self._held else {}
        future = present.pop((reference, name), None)
        return future.result() if future else self._read(reference, name)

    @property
    def _bytes(self) -> int:
        return sum(size for _, size in self._held)
