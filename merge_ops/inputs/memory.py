"""Where checkpoints are kept while candidates are built from them: on the GPU, in the host's memory, or on disk."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

SPARE = 0.8
"""The part of free memory that checkpoints may fill: evaluation needs the rest."""
HEAD = 64
Place = Literal["device", "host", "disk"]
Key = tuple[str, str]
"""A checkpoint's name and a tensor's."""


@dataclass(frozen=True)
class MemoryPlan:
    """What is kept where. ``place``: on the ``device``, pinned on the ``host`` and streamed to it, or on ``disk``.

    ``gradients``: bytes beside the live model while slopes are taken.
    """

    device: str
    place: Place
    checkpoints: Mapping[str, int]
    free: int
    statistics: int = 0
    gradients: int = 0

    def __str__(self) -> str:
        each = ", ".join(f"{name} {size(count)}" for name, count in self.checkpoints.items())
        said = f"checkpoints: {each}; {size(sum(self.checkpoints.values()))} in all, {self._kept}"
        said += f"; beside them at most {size(self.statistics)} of statistics" if self.statistics else ""
        return f"{said}; gradients take {size(self.gradients)} beside the live model" if self.gradients else said

    @property
    def _kept(self) -> str:
        room = f"{size(self.free)} free"
        if self.place == "device":
            return f"kept in memory on {self.device} ({room}); tensors that are equal are kept once"
        if self.place == "host":
            return f"kept in the host's memory ({room}) and streamed to {self.device}, where they do not fit"
        return f"read from disk for every candidate: they do not fit into memory ({room})"


@dataclass(frozen=True)
class StreamPlan:
    """What a merge to disk has in memory: the inputs and the result of one tensor, whatever the model's size."""

    checkpoints: Mapping[str, int]
    largest: int

    def __str__(self) -> str:
        each = ", ".join(f"{name} {size(count)}" for name, count in self.checkpoints.items())
        return f"checkpoints: {each}; read from disk tensor by tensor, at most {size(self.largest)} of them at a time"


def plan_memory(
    checkpoints: Mapping[str, int], live_model: int, device: str, statistics: int = 0, gradients: int = 0
) -> MemoryPlan:
    """The fastest place where the checkpoints (bytes by name) fit beside the live model, by what is free now.

    ``statistics`` are the bytes that methods keep of them, which lie where they do; ``gradients`` those that lie where
    the live model does.
    """
    needed, beside, host = sum(checkpoints.values()) + statistics, live_model + gradients, free_on_host()
    if device.startswith("cuda"):
        free: int = torch.cuda.mem_get_info(device)[0]
        if needed + beside <= SPARE * free:
            return MemoryPlan(device, "device", checkpoints, free, statistics, gradients)
        place: Place = "host" if needed <= SPARE * host else "disk"
        return MemoryPlan(device, place, checkpoints, host, statistics, gradients)
    place = "device" if needed + beside <= SPARE * host else "disk"
    return MemoryPlan(device, place, checkpoints, host, statistics, gradients)


def free_on_host() -> int:
    """Bytes that can be had without swapping, within the container's limit."""
    limit = Path("/sys/fs/cgroup/memory.max")
    limited = limit.read_text().strip() if limit.exists() else "max"
    return min(_available(), int(limited)) if limited.isdigit() else _available()


def _available() -> int:
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    lines = (line.split() for line in meminfo.read_text().splitlines())
    return next(int(words[1]) * 1024 for words in lines if words[0] == "MemAvailable:")


def size(count: int) -> str:
    """``1.5 GB``."""
    unit, name = next(
        (entry for entry in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")) if count >= entry[0]), (1, "bytes")
    )
    return f"{count / unit:.3g} {name}"


class Residents:
    """Tensors by checkpoint and name, read when first asked for and kept as the plan says."""

    def __init__(self, plan: MemoryPlan, read: Callable[[str, str], Tensor]) -> None:
        self.plan = plan
        self.saved = 0
        """Bytes that were not kept a second time."""
        self._read = read
        self._kept: dict[Key, Tensor] = {}
        self._by_name: dict[str, list[Tensor]] = {}
        self._coming: dict[Key, Tensor] = {}
        self._shared: dict[Key, Tensor] | None = None
        streams = plan.place == "host" and plan.device.startswith("cuda")
        self._stream: Any = torch.cuda.Stream(plan.device) if streams else None  # type: ignore[no-untyped-call]

    def tensor(self, reference: str, name: str) -> Tensor:
        """The tensor, on the device."""
        if self._shared is None:
            return self._find(reference, name)
        if (reference, name) not in self._shared:
            self._shared[reference, name] = self._find(reference, name)
        return self._shared[reference, name]

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Within, a tensor that is asked for again is not read or copied again."""
        self._shared = {}
        try:
            yield
        finally:
            self._shared = None

    def _find(self, reference: str, name: str) -> Tensor:
        if (reference, name) in self._coming:
            return self._arrived(reference, name)
        if self.plan.place == "disk":
            return self._read(reference, name).to(self.plan.device)
        return self._resident(reference, name).to(self.plan.device, non_blocking=True)

    def prefetch(self, keys: Iterable[Key]) -> None:
        """Begins to copy what is streamed to the device, while the device does something else."""
        if self._stream is not None:
            with torch.cuda.stream(self._stream):
                self._coming |= {key: self._resident(*key).to(self.plan.device, non_blocking=True) for key in keys}

    def _arrived(self, reference: str, name: str) -> Tensor:
        tensor, current = self._coming.pop((reference, name)), torch.cuda.current_stream(self.plan.device)
        current.wait_stream(self._stream)
        # Its memory belongs to the other stream: do not give it away before this one is done.
        tensor.record_stream(current)
        return tensor

    def _resident(self, reference: str, name: str) -> Tensor:
        if (reference, name) not in self._kept:
            self._kept[reference, name] = self._once(name, self._read(reference, name))
        return self._kept[reference, name]

    def _once(self, name: str, tensor: Tensor) -> Tensor:
        """The tensor where it is to be kept, or the equal one of another checkpoint."""
        placed = tensor.pin_memory() if self._stream else tensor
        placed = placed.to(self.plan.device) if self.plan.place == "device" else placed
        known = self._by_name.setdefault(name, [])
        found = next((other for other in known if same_bits(other, placed)), None)
        if found is None:
            known.append(placed)
            return placed
        self.saved += placed.nbytes
        return found


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same, bit for bit; most that differ do so early."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    one, two = (tensor.contiguous().view(-1).view(torch.uint8) for tensor in (a, b))
    return torch.equal(one[:HEAD], two[:HEAD]) and torch.equal(one, two)
