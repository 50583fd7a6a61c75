"""How many threads torch computes on: as many as the configuration says, or as are not busy with something else.

Threads that wait for each other are slow where another process has one of their processors: with as many threads as
processors, a candidate can take fifty times as long.
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import inf
from pathlib import Path

import torch
from threadpoolctl import ThreadpoolController

from mergesearch.say import Say

VARIABLE = "OMP_NUM_THREADS"
NUMPY = "libscipy_openblas"
"""The beginning of the names of the libraries that NumPy's and SciPy's own packages bring. Torch's are others."""
LOOK_SECONDS = 0.2
QUOTA = Path("/sys/fs/cgroup/cpu.max")
FREE = (1, 3, 4)
"""The fields of a line of /proc/stat with time that a new thread could have: of processes of low priority, idle, and
waiting for a disk."""


@contextmanager
def chosen_threads(wanted: int | None, say: Say) -> Iterator[None]:
    """Has torch compute on so many threads until the context ends, and says so.

    None: torch's number, which ``OMP_NUM_THREADS`` may set, where as many processors are free; else the largest power
    of two that is. Sums are the same on most such numbers. NumPy and SciPy, whose matrices are small here, get one.
    """
    before = torch.get_num_threads()
    count, why = (wanted, "the config says so") if wanted else _by_load(before)
    say(f"threads: {count}, {why}")
    torch.set_num_threads(count)
    try:
        with ThreadpoolController().select(prefix=NUMPY).limit(limits=1):
            yield
    finally:
        torch.set_num_threads(before)


def _by_load(most: int) -> tuple[int, str]:
    if VARIABLE in os.environ:
        return most, f"as {VARIABLE} says"
    if most == 1:
        return 1, "one for each processor"
    free = free_processors()
    if round(free) >= most:
        return most, f"{free:.1f} processors are free"
    count = 1 << (max(1, round(free)).bit_length() - 1)
    return count, f"of {most}, because {free:.1f} processors are free; threads: in the config says otherwise"


def free_processors() -> float:
    """How many of the processors that this process may use were not busy for a moment."""
    before = _times()
    if before is None:
        busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
        return max(0.0, (os.cpu_count() or 1) - busy)
    time.sleep(LOOK_SECONDS)
    after = _times() or before
    return min(_quota(), sum(_share(before[name], after[name]) for name in before.keys() & after.keys()))


def _quota() -> float:
    """How many processors a container may use at once, by its control group."""
    try:
        most, period = (int(value) for value in QUOTA.read_text(encoding="ascii").split())
    except (OSError, ValueError):  # there is none, or it says max
        return inf
    return most / period


def _times() -> Mapping[str, list[int]] | None:
    """The times of each processor that this process may use, by /proc/stat; None where there is no such file."""
    try:
        lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    mine = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    found = {name: [int(value) for value in values] for name, *values in map(str.split, lines) if name in mine}
    return found or None


def _share(before: list[int], after: list[int]) -> float:
    """The part of the time that a processor was free; all of it where no time has passed."""
    spent = [two - one for one, two in zip(before, after, strict=True)][:8]
    return sum(spent[place] for place in FREE) / sum(spent) if sum(spent) > 0 else 1.0
