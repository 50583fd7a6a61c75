"""Weights & Biases. Its own variables choose project, entity and mode, as in WANDB_PROJECT and WANDB_MODE=offline."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mergesearch.search.optimize.trackers import PROJECT, TrackedRun, Values


def begin(run: TrackedRun, id_: str | None) -> "WandbTracker":
    """See ``trackers.begin``. What it keeps on this machine is in the run's folder, unless WANDB_DIR names another."""
    import wandb

    return WandbTracker(
        wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            id=id_,
            resume="allow" if id_ else None,
            config=dict(run.config),
            dir=os.environ.get("WANDB_DIR", str(run.folder)),
            settings=wandb.Settings(silent=True, disable_git=True, console="off"),
        )
    )


class WandbTracker:
    """See ``Tracker``."""

    def __init__(self, run: Any) -> None:
        self._run, self.id = run, str(run.id)

    def trial(self, step: int, values: Values) -> None:
        self._run.log(dict(values), step=step)

    def concluded(self, values: Values, files: Sequence[Path]) -> None:
        import wandb

        self._run.summary.update(dict(values))
        artifact = wandb.Artifact(f"{self.id}-verdict", type="verdict")
        for file in files:
            artifact.add_file(str(file))
        self._run.log_artifact(artifact)

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))
