"""MLflow. Its own variables choose server and experiment: MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mergesearch.search.optimize.trackers import PROJECT, TrackedRun, Values, flat, numbers, texts

if TYPE_CHECKING:
    from mlflow import MlflowClient

LONGEST = 500
"""The most characters of a parameter, and of a tag."""
AT_ONCE = 100
"""How many parameters a request may have."""
PARENT = "mlflow.parentRunId"


def begin(run: TrackedRun, id_: str | None) -> "MlflowTracker":
    """See ``trackers.begin``."""
    from mlflow import MlflowClient

    client = MlflowClient()
    if id_ is not None:
        client.update_run(id_, status="RUNNING")
        return MlflowTracker(client, id_)
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    experiment = client.get_experiment_by_name(name)
    number = experiment.experiment_id if experiment else client.create_experiment(name)
    tracker = MlflowTracker(client, client.create_run(number, run_name=run.name).info.run_id)
    tracker.log(tracker.id, flat(run.config))
    return tracker


class MlflowTracker:
    """See ``Tracker``. A trial is a run within the run; the run itself has the trials' numbers by step."""

    def __init__(self, client: "MlflowClient", id_: str) -> None:
        self._client, self.id = client, id_
        self._experiment = client.get_run(id_).info.experiment_id

    def log(self, id_: str, values: Values, step: int = 0) -> None:
        """Logs numbers as metrics and texts as parameters of a run."""
        from mlflow.entities import Metric, Param

        now = int(1000 * time.time())
        metrics = [Metric(_name(key), value, now, step) for key, value in numbers(values).items()]
        params = [Param(_name(key), text[:LONGEST]) for key, text in texts(values).items()]
        for first in range(0, max(len(metrics), len(params)), AT_ONCE):
            some = slice(first, first + AT_ONCE)
            self._client.log_batch(id_, metrics=metrics[some], params=params[some])

    def trial(self, step: int, values: Values) -> None:
        name = str(values.get("name", step))
        child = self._client.create_run(self._experiment, run_name=name, tags={PARENT: self.id}).info.run_id
        self.log(child, {key: str(value) if key.startswith("param/") else value for key, value in values.items()})
        self._client.set_terminated(child)
        self.log(self.id, numbers(values), step)

    def concluded(self, values: Values, files: Sequence[Path]) -> None:
        self.log(self.id, numbers(values))
        for key, text in texts(values).items():
            self._client.set_tag(self.id, _name(key), text[:LONGEST])
        for file in files:
            self._client.log_artifact(self.id, str(file))

    def close(self, failed: bool) -> None:
        self._client.set_terminated(self.id, "FAILED" if failed else "FINISHED")


def _name(key: str) -> str:
    """The key in the signs that MLflow allows."""
    return "".join(sign if sign.isalnum() or sign in "/_-. :" else "_" for sign in key)
