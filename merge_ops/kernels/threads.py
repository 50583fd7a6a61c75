"""Runs a function on the spans of a tensor, on several threads.

This only helps functions that release Python's global interpreter lock.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

T = TypeVar("T")
SMALL = 1 << 22
"""Elements of a tensor up to which several are worked on at once, each on one thread."""
SPAN = 1 << 16
"""Elements that a thread takes at a time. Fixed, so that sums over spans do not depend on the number of threads."""


def run_spans(size: int, work: Callable[[int, int], None], span: int = SPAN) -> None:
    """Calls ``work(start, end)`` for every span of ``size`` elements, on ``torch.get_num_threads()`` threads."""
    spans = [(start, min(start + span, size)) for start in range(0, size, span)]

    def run() -> None:
        while spans:
            try:
                span = spans.pop()
            except IndexError:  # another thread took the last span
                return
            work(*span)

    run_on_threads(run, len(spans))


def run_jobs(jobs: Sequence[Callable[[], T]]) -> list[T]:
    """Returns the results of jobs, on ``torch.get_num_threads()`` threads. Within a job, torch uses one thread."""
    threads, left, results = torch.get_num_threads(), list(enumerate(jobs)), dict[int, T]()

    def run() -> None:
        torch.set_num_threads(1)
        while left:
            try:
                index, job = left.pop(0)
            except IndexError:  # another thread took the last job
                return
            results[index] = job()

    try:
        run_on_threads(run, len(left))
    finally:
        torch.set_num_threads(threads)
    return [results[index] for index in range(len(jobs))]


def run_for(size: int, *jobs: Callable[[], T]) -> list[T]:
    """Returns the results of jobs on a tensor of ``size`` elements: of a small one by ``run_jobs``, else in turn.

    So they have the same bits if small tensors are worked on at once, on any number of threads.
    """
    return run_jobs(jobs) if size <= SMALL else [job() for job in jobs]


def run_on_threads(work: Callable[[], None], limit: int) -> None:
    """Calls ``work`` once on each of ``min(torch.get_num_threads(), limit)`` threads, including the calling one.

    Raises the exception of a thread if one fails.
    """
    others = [_pool().submit(work) for _ in range(min(torch.get_num_threads(), limit) - 1)]
    work()
    for other in others:
        other.result()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="merge")


# Threads do not survive a fork.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
