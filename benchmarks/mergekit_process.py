"""mergekit in a process of its own, in its own virtual environment."""

import json
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
import yaml

MERGEKIT = "0.1.5"
SLOW = 150.0
"""Seconds after which a merge of mergekit is given up."""


class Mergekit:
    """mergekit in a process of its own, which keeps the checkpoints in memory."""

    def __init__(self, python: str, folder: Path) -> None:
        script = Path(__file__).with_name("mergekit_in_memory.py")
        self._command = [python, str(script), str(torch.get_num_threads()), "2"]
        self._recipe, self._log = folder / "recipe.yml", folder / "mergekit.log"
        self._process: subprocess.Popen[str] | None = None

    def measure(self, data: dict[str, Any], ours: dict[str, Any], limit: Callable[[], float]) -> dict[str, Any]:
        """mergekit's columns of a row for the same recipe; the limit is measured before and after the merge."""
        limits = [limit()]
        theirs = self._seconds(data)
        limits.append(limit())
        saved = theirs - ours["seconds"]
        return {
            "mergekit": theirs,
            "mergekit_multiple": theirs / median(limits),
            "ratio": theirs / ours["seconds"],
            "pays": max(1, -int(-ours["prepare"] // saved)) if saved > 0 else None,
            "gave_up": theirs == SLOW,
        }

    def _seconds(self, data: dict[str, Any]) -> float:
        """Seconds of a merge; SLOW where it was given up."""
        if self._process is None:
            with self._log.open("w") as log:
                pipe = subprocess.PIPE
                self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, stderr=log, text=True)
        self._recipe.write_text(yaml.safe_dump(data))
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{self._recipe}\n")
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], SLOW)[0]:
            self.close()
            return SLOW
        answer = self._process.stdout.readline()
        if not answer:
            raise click.ClickException(f"mergekit: {self._log.read_text()[-2000:]}")
        return float(median(json.loads(answer)))

    def close(self) -> None:
        """Ends the process; the next merge starts another."""
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None


def mergekit_python() -> str:
    """The Python of a virtual environment with mergekit, which is created where it does not exist."""
    folder = Path.home() / ".cache" / "mergesearch" / f"mergekit-{MERGEKIT}"
    python, done = folder / "bin" / "python", folder / "installed"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        packages = [f"torch=={torch.__version__.split('+')[0]}", f"mergekit=={MERGEKIT}"]
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
        done.touch()
    return str(python)
