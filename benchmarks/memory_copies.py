"""How fast this machine copies memory: the limit of what a merge can reach."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from mergesearch.merge_ops.kernels.combine import combine_all
from mergesearch.merge_ops.kernels.plans import LinearCombination, Pass
from mergesearch.merge_ops.kernels.threads import run_spans


class Copies:
    """Copies of as many bytes as a checkpoint has: by torch on one thread or all, by our threads, or by our kernels."""

    def __init__(self, views: Mapping[str, torch.Tensor]) -> None:
        self._pairs = [(view.clone().view(-1), torch.zeros_like(view).view(-1)) for view in views.values()]
        self.bytes = sum(a.nbytes for a, _ in self._pairs)

    def bandwidth(self) -> float:
        """Bytes per second of the fastest copy, read and written."""
        copies = (self._one_thread, self._torch, self._spread, self._kernels)
        return 2 * self.bytes / min(timed(copy) for copy in copies)

    def _torch(self) -> None:
        for source, target in self._pairs:
            target.copy_(source)

    def _one_thread(self) -> None:
        on_one_thread(self._torch)

    def _spread(self) -> None:
        for source, target in self._pairs:
            a, b = (tensor.view(torch.uint8).numpy() for tensor in (source, target))
            run_spans(a.size, partial(_copy, a, b))

    def _kernels(self) -> None:
        combine_all(Pass(LinearCombination((1.0,)), None, [source], target) for source, target in self._pairs)


def timed(function: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def on_one_thread(function: Callable[[], Any]) -> None:
    """Calls a function while torch uses one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    function()
    torch.set_num_threads(threads)


def _copy(source: np.ndarray[Any, Any], target: np.ndarray[Any, Any], start: int, end: int) -> None:
    np.copyto(target[start:end], source[start:end])
