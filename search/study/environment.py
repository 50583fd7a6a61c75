"""What the sessions of a run computed with: versions and machines, without anything that names a host or a user."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from mergesearch.files import write_text

FILE = "environment.json"
PACKAGES = ("mergesearch", "torch", "transformers", "lm_eval", "optuna")
CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Environment:
    """One machine with its software, as a session of a run found it.

    Attributes:
        versions: of Python and of the packages that a result depends on, by name.
        system: the operating system and the kind of its processor.
        processor: its name.
        processors: how many of them this process may use.
        threads: on how many of them torch computes.
        memory: bytes; None where the system does not say.
        device: what models are on: the GPU's name, or cpu.
    """

    versions: Mapping[str, str]
    system: str
    processor: str
    processors: int
    threads: int
    memory: int | None
    device: str

    @classmethod
    def here(cls, device: str) -> "Environment":
        """This process's, with models on a torch device."""
        import torch

        return cls(
            {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
            f"{platform.system()} {platform.machine()}",
            _processor(),
            processors(),
            torch.get_num_threads(),
            _memory(),
            torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        )


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_environments(folder: Path) -> list[Environment]:
    """Those of a run's sessions, each once; none where none is recorded, or the file cannot be read."""
    try:
        return TypeAdapter(list[Environment]).validate_json((folder / FILE).read_bytes())
    except (OSError, ValidationError):
        return []


def note_environment(folder: Path, device: str) -> None:
    """Records this session's, unless an earlier session had the same."""
    before, now = read_environments(folder), Environment.here(device)
    if now not in before:
        content = TypeAdapter(list[Environment]).dump_json([*before, now], indent=2).decode()
        write_text(folder / FILE, content + "\n")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "from source"


def _processor() -> str:
    """Its name, from the system; at least its kind."""
    try:
        lines = CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # not on Windows
        return None
