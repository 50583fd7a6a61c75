"""Memory for tensors that are read or written once, which is used again when they are dropped.

The system fills new memory with zeros, and takes it back page by page: for tensors that are read, merged and written
one after the other, that takes as long as reading them from the page cache.
"""

import mmap
import weakref
from collections import deque
from contextlib import suppress
from threading import Lock

import torch
from torch import Tensor

HUGE = 4 << 20
"""From so many bytes on, memory is asked for in huge pages, and kept."""
MOST_KEPT = 128 << 20
"""Bytes that are kept at most for tensors to come."""


def allocated(count: int) -> Tensor:
    """Returns memory for so many bytes, flat uint8 on the CPU. What is in it is undefined.

    Much of it is in huge pages, which the system gives several times faster.
    """
    if count < HUGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(count, dtype=torch.uint8)
    pages = _kept.taken(count) or _new(count)
    view = memoryview(pages)  # torch holds it for as long as a tensor needs the memory
    weakref.finalize(view, _kept.give, pages).atexit = False
    return torch.frombuffer(view, dtype=torch.uint8)


def _new(count: int) -> mmap.mmap:
    pages = mmap.mmap(-1, count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a system without huge pages
        pages.madvise(mmap.MADV_HUGEPAGE)
    return pages


class _Kept:
    """Memory without a tensor: the last of it, ``MOST_KEPT`` bytes in all."""

    def __init__(self) -> None:
        self._pages: deque[mmap.mmap] = deque()
        self._lock = Lock()

    def taken(self, count: int) -> mmap.mmap | None:
        """Returns memory of exactly this size, which is another tensor's from now on; None where there is none."""
        with self._lock:
            found = next((pages for pages in self._pages if len(pages) == count), None)
            if found is not None:
                self._pages.remove(found)
        return found

    def give(self, pages: mmap.mmap) -> None:
        """Keeps memory that no tensor needs any more. It is dropped where another thread is here at the moment."""
        if len(pages) > MOST_KEPT or not self._lock.acquire(blocking=False):
            return
        try:
            self._pages.append(pages)
            while sum(map(len, self._pages)) > MOST_KEPT:
                self._pages.popleft()
        finally:
            self._lock.release()


_kept = _Kept()
