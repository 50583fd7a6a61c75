"""Plans where the checkpoints are kept while candidates are built: on the GPU, in host memory, or on disk."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from mergesearch.merge_ops.checkpoint.sharing import sharing_processes

USABLE = 0.8
"""The fraction of free memory that checkpoints may fill. Evaluation needs the rest."""
Location = Literal["device", "host", "disk"]


@dataclass(frozen=True)
class MemoryPlan:
    """Where the checkpoints are kept. As text, it is one line for the user.

    Attributes:
        device: the device on which tensors are merged.
        location: ``device``; ``host`` for pinned memory, from which tensors are streamed to the device; or ``disk``.
        checkpoints: the bytes of each checkpoint by reference.
        free: the free bytes at the location.
        statistics: the bytes of cached statistics at most.
        gradients: the bytes of gradients beside the live model.
        sharers: the processes that share the checkpoints in the host's memory.
    """

    device: str
    location: Location
    checkpoints: Mapping[str, int]
    free: int
    statistics: int = 0
    gradients: int = 0
    sharers: int = 1

    def __str__(self) -> str:
        text = f"checkpoints: {_sizes(self.checkpoints)}; {size(sum(self.checkpoints.values()))} in all, {self._where}"
        text += f"; statistics take at most {size(self.statistics)} more" if self.statistics else ""
        return f"{text}; gradients take {size(self.gradients)} more" if self.gradients else text

    @property
    def _shared(self) -> str:
        is_shared = self.sharers > 1 and (self.location == "host" or self.device == "cpu")
        return f", shared by {self.sharers} processes" if is_shared else ""

    @property
    def _where(self) -> str:
        free = f"{size(self.free)} free"
        if self.location == "device":
            return f"kept in memory on {self.device} ({free}{self._shared}); equal tensors are kept once"
        if self.location == "host":
            return f"kept in host memory ({free}{self._shared}) and streamed to {self.device}, where they do not fit"
        return f"read from disk for every candidate, because they do not fit in memory ({free})"


@dataclass(frozen=True)
class StreamPlan:
    """What a merge to disk keeps in memory: the inputs and the result of one tensor. As text, one line for the user."""

    checkpoints: Mapping[str, int]
    largest: int

    def __str__(self) -> str:
        return (
            f"checkpoints: {_sizes(self.checkpoints)}; read from disk tensor by tensor, at most {size(self.largest)} "
            "of them at a time"
        )


def _sizes(checkpoints: Mapping[str, int]) -> str:
    names = [Path(reference).name for reference in checkpoints]
    shown = names if len(set(names)) == len(names) else list(checkpoints)
    return ", ".join(f"{name} {size(count)}" for name, count in zip(shown, checkpoints.values(), strict=True))


def plan_memory(
    checkpoints: Mapping[str, int], live_model: int, device: str, statistics: int = 0, gradients: int = 0
) -> MemoryPlan:
    """Returns the fastest location where the checkpoints fit beside the live model, by the memory that is free now.

    Args:
        checkpoints: the bytes of each checkpoint by reference.
        live_model: the bytes of the live models.
        device: the device of the live model.
        statistics: the bytes of cached statistics, which are kept where the checkpoints are.
        gradients: the bytes of gradients, which are kept where the live model is.
    """
    needed, live, host, sharers = sum(checkpoints.values()), live_model + gradients, free_on_host(), sharing_processes()
    shared = needed + sharers * statistics
    if device.startswith("cuda"):
        free = free_on_device(device)
        if needed + statistics + live <= USABLE * free:
            return MemoryPlan(device, "device", checkpoints, free, statistics, gradients, sharers)
        location: Location = "host" if shared <= USABLE * host else "disk"
    else:
        location = "device" if shared + sharers * live <= USABLE * host else "disk"
    return MemoryPlan(device, location, checkpoints, host, statistics, gradients, sharers)


def free_on_device(device: str) -> int:
    """Returns the bytes of a GPU's memory that are free."""
    free: int = torch.cuda.mem_get_info(device)[0]
    return free


def free_on_host() -> int:
    """Returns the bytes of memory that can be allocated without swapping, within the container's limit."""
    file = Path("/sys/fs/cgroup/memory.max")
    limit = file.read_text().strip() if file.exists() else "max"
    return min(_available(), int(limit)) if limit.isdigit() else _available()


def _available() -> int:
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    lines = (line.split() for line in meminfo.read_text().splitlines())
    return next(int(words[1]) * 1024 for words in lines if words[0] == "MemAvailable:")


def size(count: int) -> str:
    """Returns a number of bytes in words, such as ``1.5 GB``."""
    units = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
    unit, name = next((entry for entry in units if count >= entry[0]), (1, "bytes"))
    return f"{count / unit:.3g} {name}"
