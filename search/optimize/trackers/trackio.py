"""Trackio, which keeps runs on this machine: in TRACKIO_DIR. TRACKIO_SPACE_ID sends them to a Space of the Hub."""

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from mergesearch.search.optimize.trackers import PROJECT, TrackedRun, Values


def begin(run: TrackedRun, id_: str | None) -> "TrackioTracker":
    """See ``trackers.begin``. Trackio finds runs by their names, so the name has an end that no other one has."""
    import trackio

    name = id_ or f"{run.name}-{uuid.uuid4().hex[:6]}"
    resume, config = "never" if id_ is None else "must", dict(run.config)
    space = os.environ.get("TRACKIO_SPACE_ID")
    with _without_a_word():
        begun = trackio.init(
            PROJECT,
            name,
            config=config,
            resume=resume,
            space_id=space,
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )
    return TrackioTracker(begun, name)


@contextmanager
def _without_a_word() -> Iterator[None]:
    """Keeps what Trackio prints off the screen, where the run shows how far it is."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield


class TrackioTracker:
    """See ``Tracker``."""

    def __init__(self, run: Any, id_: str) -> None:
        self._run, self.id = run, id_

    def trial(self, step: int, values: Values) -> None:
        self._run.log(dict(values), step=step)

    def concluded(self, values: Values, files: Sequence[Path]) -> None:
        import trackio

        self._run.log(dict(values))
        artifact = trackio.Artifact(f"{self.id}-verdict", type="verdict")
        for file in files:
            artifact.add_file(str(file))
        self._run.log_artifact(artifact)

    def close(self, failed: bool) -> None:  # noqa: ARG002
        import trackio

        with _without_a_word():
            trackio.finish()
