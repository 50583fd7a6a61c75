"""Each tracker is told of a run, and its store on this machine is read back.

``scripts/check --slow`` makes an environment that has their packages. By hand: ``MERGESEARCH_TRACKERS=/path/to/python
pytest -m slow tests/search/optimize/test_trackers.py``.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any, get_args

import pytest
from click.testing import CliRunner

from mergesearch.errors import UserError
from mergesearch.search.cli import main
from mergesearch.search.config import Tracker
from mergesearch.search.optimize.trackers import TRACKERS, check_installed, flat

ROOT = Path(__file__).parents[3]
STORE = Path(__file__).parent / "tracker_store.py"


def test_a_config_may_name_each_tracker() -> None:
    assert get_args(Tracker) == tuple(TRACKERS)


def test_what_is_not_installed_is_told_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRACKERS, "wandb", "no_package_of_this_name")
    monkeypatch.setitem(TRACKERS, "mlflow", "json")
    with pytest.raises(UserError, match=r"track: wandb: not installed; pip install 'mergesearch\[wandb\]'"):
        check_installed(["mlflow", "wandb"])
    check_installed(["mlflow"])


def test_check_tells_it_too(monkeypatch: pytest.MonkeyPatch, config_file: Path) -> None:
    monkeypatch.setitem(TRACKERS, "trackio", "no_package_of_this_name")
    result = CliRunner().invoke(main, ["check", str(config_file), "track=[trackio]"])
    assert (result.exit_code, result.stderr) == (
        2,
        "error: track: trackio: not installed; pip install 'mergesearch[trackio]'\n",
    )


def test_a_config_is_flat_by_paths() -> None:
    config = {"search": {"trials": 3}, "tasks": [{"task": "a"}, {"task": "b"}], "empty": []}
    assert flat(config) == {"search.trials": "3", "tasks.0.task": "a", "tasks.1.task": "b"}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRACKERS)
def test_a_run_in_two_parts_is_one_in_the_tracker(name: str, tmp_path: Path) -> None:
    found = _stored(name, tmp_path)
    first, second = found["ids"]
    assert first == second
    assert found["scores"] == [[0, 0.0], [1, 0.25], [2, 0.5]]
    assert found["ending"] == ["Use it.", 0.75]
    assert found["config"] is True
    assert len(found["methods"]) == 3
    assert all("ties" in text for text in found["methods"])
    assert found.get("files", [True])
    assert found.get("is_one", True)
    assert found.get("state", "FINISHED") == "FINISHED"


def _stored(name: str, folder: Path) -> dict[str, Any]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "WANDB_MODE": "offline",
        "TRACKIO_DIR": str(folder / "trackio"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "HF_HUB_OFFLINE": "1",
        "HOME": str(folder),
    }
    command = [os.environ["MERGESEARCH_TRACKERS"], str(STORE), name, str(folder)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
