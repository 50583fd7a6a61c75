"""Asking the workers of a run to stop, each after its trial."""

import json
from pathlib import Path

from mergesearch.files import write_text
from mergesearch.search.study.workers import Workers

FILE = "stop.json"
"""The workers of a run that were asked to stop, by name: others, which join later, are not meant."""


class Stopped(KeyboardInterrupt):
    """Somebody asked this worker to stop: it ends as if it were interrupted, but between two trials."""


def ask_to_stop(folder: Path) -> list[str]:
    """Asks the living workers of the run in a folder to stop; gives their names."""
    names = Workers(folder / "workers").seen()
    write_text(folder / FILE, json.dumps(names) + "\n")
    return names


def is_asked_to_stop(folder: Path, worker: str) -> bool:
    """Whether a worker of the run in a folder was asked to stop."""
    try:
        return worker in json.loads((folder / FILE).read_bytes())
    except (OSError, ValueError, TypeError):
        return False
