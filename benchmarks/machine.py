"""Results of benchmarks as JSON, with the command, the versions of packages, and the machine."""

import json
import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("mergesearch", "torch", "transformers", "optuna", "lm-eval", "safetensors")
FOLDER = Path(__file__).parents[1] / "results" / "benchmarks"


def machine() -> dict[str, Any]:
    """The properties of this machine that can be read."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "load": [round(load, 2) for load in os.getloadavg()],
    }


def write_result(name: str, result: dict[str, Any]) -> None:
    """Writes ``result`` to results/benchmarks/NAME.json."""
    content = {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "machine": machine(),
        **result,
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
