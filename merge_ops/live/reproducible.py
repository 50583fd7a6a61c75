"""Gradients that are the same bytes every time."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

UNABLE = r".*(does not have a deterministic implementation|it uses CuBLAS)"
"""What torch says of the operations that it cannot do in a fixed order."""


@contextmanager
def reproducible() -> Iterator[None]:
    """Inside this block torch adds in a fixed order, wherever it can.

    Otherwise threads add the gradients of an index to memory as they come.
    """
    memory: Any = torch.utils.deterministic
    mode, fill = torch.get_deterministic_debug_mode(), memory.fill_uninitialized_memory
    torch.set_deterministic_debug_mode("warn")
    memory.fill_uninitialized_memory = False  # which takes a pass over memory and changes no result
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=UNABLE, category=UserWarning)
            yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        memory.fill_uninitialized_memory = fill
