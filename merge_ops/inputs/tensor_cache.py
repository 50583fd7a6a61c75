"""A cache of the checkpoints' tensors, kept where the memory plan says."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from mergesearch.merge_ops.inputs.memory import MemoryPlan

HEAD = 64
Key = tuple[str, str]
"""A checkpoint's reference and a tensor's name."""


class TensorCache:
    """Tensors by checkpoint and name, read on first access and kept as the plan says. Equal tensors are kept once.

    Args:
        plan: where the tensors are kept.
        read: reads a tensor from a reference and a name.
    """

    def __init__(self, plan: MemoryPlan, read: Callable[[str, str], Tensor]) -> None:
        self.plan = plan
        self._read = read
        self._tensors: dict[Key, Tensor] = {}
        self._by_name: dict[str, list[Tensor]] = {}
        self._prefetched: dict[Key, Tensor] = {}
        uses_stream = plan.location == "host" and plan.device.startswith("cuda")
        self._stream: Any = torch.cuda.Stream(plan.device) if uses_stream else None  # type: ignore[no-untyped-call]

    def tensor(self, reference: str, name: str) -> Tensor:
        """Returns the tensor on the plan's device."""
        if (reference, name) in self._prefetched:
            return self._take_prefetched(reference, name)
        if self.plan.location == "disk":
            return self._read(reference, name).to(self.plan.device)
        return self._cached(reference, name).to(self.plan.device, non_blocking=True)

    def prefetch(self, keys: Iterable[Key]) -> None:
        """Starts to copy tensors to the device, if they are streamed to it. The device can compute meanwhile."""
        if self._stream is not None:
            with torch.cuda.stream(self._stream):
                self._prefetched |= {key: self._cached(*key).to(self.plan.device, non_blocking=True) for key in keys}

    def _take_prefetched(self, reference: str, name: str) -> Tensor:
        tensor, current = self._prefetched.pop((reference, name)), torch.cuda.current_stream(self.plan.device)
        current.wait_stream(self._stream)
        # The memory belongs to the other stream, which must not reuse it before this stream is done.
        tensor.record_stream(current)
        return tensor

    def _cached(self, reference: str, name: str) -> Tensor:
        if (reference, name) not in self._tensors:
            self._tensors[reference, name] = self._placed(name, self._read(reference, name))
        return self._tensors[reference, name]

    def _placed(self, name: str, tensor: Tensor) -> Tensor:
        """Returns the tensor at its location, or the equal tensor of another checkpoint."""
        # What is pinned is a copy, which other processes cannot share.
        placed = tensor.pin_memory() if self._stream and self.plan.sharers == 1 else tensor
        placed = placed.to(self.plan.device) if self.plan.location == "device" else placed
        others = self._by_name.setdefault(name, [])
        equal = next((other for other in others if same_bits(other, placed)), None)
        if equal is None:
            others.append(placed)
            return placed
        return equal


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Returns whether two tensors have the same dtype, shape and bits. The first bytes are compared first."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    bytes_a, bytes_b = (tensor.contiguous().view(-1).view(torch.uint8) for tensor in (a, b))
    return torch.equal(bytes_a[:HEAD], bytes_b[:HEAD]) and torch.equal(bytes_a, bytes_b)
