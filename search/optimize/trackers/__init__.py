"""Trackers of experiments: where others watch a run. One module a tracker, with one contract.

This module and those of the trackers import nothing of the search, and a tracker's own library only when a run begins.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from mergesearch.errors import UserError

TRACKERS = {"wandb": "wandb", "trackio": "trackio", "mlflow": "mlflow", "tensorboard": "tensorboard"}
"""The trackers, with the package that each needs, which the extra of its name installs."""
PROJECT = "mergesearch"
"""The project or experiment that runs are in, where the user names no other by the tracker's own variables."""
Values = Mapping[str, float | str]
"""Numbers and texts by their names, such as ``score``, ``task/arc_easy`` and ``param/weight``."""


@dataclass(frozen=True)
class TrackedRun:
    """A run as a tracker has to know it: its name, its folder, and its config."""

    name: str
    folder: Path
    config: Mapping[str, Any]


class Tracker(Protocol):
    """A run in a tracker, which has begun. All that it does may fail.

    Attributes:
        id: by which the tracker knows the run, so that it can go on with it later.
    """

    id: str

    def trial(self, step: int, values: Values) -> None:
        """A finished trial, the ``step``-th that this run tells, from 0 on."""
        ...

    def concluded(self, values: Values, files: Sequence[Path]) -> None:
        """The verdict, and files to keep with the run."""
        ...

    def close(self, failed: bool) -> None:
        """The end of this process's part; ``failed``: by an error."""
        ...


def check_installed(names: Sequence[str]) -> None:
    """Raises UserError, with what installs it, where a tracker's package is missing."""
    missing = [name for name in names if find_spec(TRACKERS[name]) is None]
    if missing:
        command = f"pip install 'mergesearch[{','.join(missing)}]'"
        raise UserError(f"track: {' and '.join(missing)}: not installed; {command}")


def begin(name: str, run: TrackedRun, id_: str | None) -> Tracker:
    """Begins the run in the tracker of that name, or goes on with the one of that ``id_``. It may raise anything."""
    tracker: Tracker = import_module(f"{__name__}.{name}").begin(run, id_)
    return tracker


def numbers(values: Values) -> dict[str, float]:
    """Those of the values that are numbers."""
    return {name: value for name, value in values.items() if not isinstance(value, str)}


def texts(values: Values) -> dict[str, str]:
    """Those of the values that are texts."""
    return {name: value for name, value in values.items() if isinstance(value, str)}


def flat(config: Any, name: str = "") -> dict[str, str]:
    """Each value of a config, as text, by its path, such as ``search.trials`` and ``evaluate.tasks.0.task``."""
    entries = config.items() if isinstance(config, Mapping) else enumerate(config) if isinstance(config, list) else ()
    parts = {f"{name}.{key}".lstrip("."): value for key, value in entries}
    found = {path: text for key, value in parts.items() for path, text in flat(value, key).items()}
    return found if isinstance(config, Mapping | list) else {name: str(config)}
