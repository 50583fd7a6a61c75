"""What trackers are told of a run, also where it is resumed, or where one of them fails."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from mergesearch.errors import UserError
from mergesearch.parsing import read_yaml
from mergesearch.say import Say, silent
from mergesearch.search.candidates.plan import open_plan
from mergesearch.search.config import Config
from mergesearch.search.optimize import trackers
from mergesearch.search.optimize.callbacks import Watcher
from mergesearch.search.optimize.trackers import TrackedRun, Values
from mergesearch.search.optimize.tracking import LOCK
from mergesearch.search.run import run
from mergesearch.search.study import trials as t

from ..helpers import study_of


class Recorder:
    """A tracker that keeps what it is told. ``fails``: at that call of ``trial``."""

    def __init__(self) -> None:
        self.begun: list[tuple[TrackedRun, str | None]] = []
        self.trials: list[tuple[int, Values]] = []
        self.endings: list[tuple[Values, Sequence[Path]]] = []
        self.closed: list[bool] = []
        self.fails: int | None = None
        self.id = "the run"

    def begin(self, _: str, run: TrackedRun, id_: str | None) -> "Recorder":
        self.begun.append((run, id_))
        return self

    def trial(self, step: int, values: Values) -> None:
        if step == self.fails:
            raise ConnectionError("the server is away")
        self.trials.append((step, values))

    def concluded(self, values: Values, files: Sequence[Path]) -> None:
        self.endings.append((values, files))

    def close(self, failed: bool) -> None:
        self.closed.append(failed)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(trackers, "begin", recorder.begin)
    monkeypatch.setattr(trackers, "check_installed", lambda _: None)
    return recorder


@pytest.fixture
def results(finished: Path, tmp_path: Path) -> Path:
    """A folder of results with a finished run that no tracker knows."""
    shutil.copytree(finished, tmp_path / "small")
    return tmp_path


def go(results: Path, trials: int = 7, say: Say = silent) -> None:
    data: dict[str, Any] = read_yaml(results / "small" / "config.yml")
    data["search"]["trials"], data["track"] = trials, ["wandb"]
    run(open_plan(Config.model_validate(data), "config"), results, Watcher(say))


def test_a_tracker_is_told_of_config_trials_and_verdict(recorder: Recorder, results: Path) -> None:
    go(results)
    ((about, id_),) = recorder.begun
    assert (about.name, id_, about.config["search"]["trials"]) == ("small", None, 7)
    finished = t.finished(study_of(results / "small"))
    assert [step for step, _ in recorder.trials] == list(range(7))
    for (_, values), trial in zip(recorder.trials, finished, strict=True):
        assert values["score"] == trial.value
        assert values["items"] == t.items_of(trial)
        assert values["task/letters"] == trial.user_attrs[t.VALUES]["letters"]
    bests = [values["best"] for _, values in recorder.trials]
    assert bests == sorted(bests)
    assert any(key.startswith("param/") for key in recorder.trials[-1][1])
    ((ending, files),) = recorder.endings
    assert "verdict/sentence" in ending
    assert {file.name for file in files} == {"report.html", "recommended.yml", "best.yml", "verdict.json"}
    assert recorder.closed == [False]


def test_a_resumed_run_goes_on_in_the_tracker(recorder: Recorder, results: Path) -> None:
    go(results, 7)
    go(results, 9)
    assert [id_ for _, id_ in recorder.begun] == [None, "the run"]
    assert [step for step, _ in recorder.trials] == list(range(9))
    assert len(recorder.endings) == 2


def test_a_finished_run_is_not_begun_again(recorder: Recorder, results: Path) -> None:
    go(results)
    go(results)
    assert len(recorder.begun) == len(recorder.endings) == 1


def test_a_tracker_that_fails_does_not_end_the_search(recorder: Recorder, results: Path) -> None:
    recorder.fails, said = 3, list[str]()
    go(results, 8, said.append)
    assert len(recorder.trials) == 3
    assert recorder.closed == [True]
    assert len(t.finished(study_of(results / "small"))) == 8
    (warning,) = [line for line in said if "track" in line]
    assert warning.startswith("warning: track: wandb has failed")
    assert "the server is away" in warning


def test_what_a_failed_tracker_missed_is_told_at_the_next_run(recorder: Recorder, results: Path) -> None:
    recorder.fails = 3
    go(results)
    recorder.fails = None
    go(results)
    assert [step for step, _ in recorder.trials] == list(range(7))
    assert len(recorder.endings) == 1


@pytest.mark.usefixtures("recorder")
def test_a_tracker_that_cannot_begin_ends_the_run_before_a_trial(
    monkeypatch: pytest.MonkeyPatch, results: Path
) -> None:
    def begin(*_: object) -> None:
        raise OSError("no key")

    monkeypatch.setattr(trackers, "begin", begin)
    with pytest.raises(UserError, match=r"track: wandb cannot begin: .*no key"):
        go(results, 9)
    assert len(t.finished(study_of(results / "small"))) == 7


def test_one_process_tells_for_all(recorder: Recorder, results: Path) -> None:
    said = list[str]()
    with FileLock(results / "small" / LOCK):
        go(results, 7, said.append)
    assert recorder.begun == []
    assert "another worker tells the trackers" in said
    go(results)
    assert len(recorder.trials) == 7
