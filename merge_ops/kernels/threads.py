"""Work on spans of a tensor, shared among threads: for functions that leave Python's lock."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch

SPAN = 1 << 16
"""Elements that a thread takes at a time. Fixed, so that sums over spans do not depend on the number of threads."""


def spread(size: int, work: Callable[[int, int], None]) -> None:
    """Calls ``work(start, end)`` for every span of ``size``, on as many threads as torch would use."""
    spans = [(start, min(start + SPAN, size)) for start in range(0, size, SPAN)]

    def run() -> None:
        while spans:
            try:
                span = spans.pop()
            except IndexError:  # another thread took the last
                return
            work(*span)

    together(run, len(spans))


def together(work: Callable[[], None], most: int) -> None:
    """Calls ``work`` on as many threads as torch would use, this one among them, but not on more than ``most``."""
    others = [_pool().submit(work) for _ in range(min(torch.get_num_threads(), most) - 1)]
    work()
    for other in others:
        other.result()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="merge")


# Threads do not survive a fork.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
