"""What the workers of a run tell each other and their watchers."""

import json
from pathlib import Path

import pytest

from mergesearch.search.candidates.plan import open_plan
from mergesearch.search.config import Config
from mergesearch.search.optimize import underway as module
from mergesearch.search.optimize.callbacks import Watcher
from mergesearch.search.optimize.underway import underway
from mergesearch.search.run import run
from mergesearch.search.study.progress import FILE, NOW, Doing, Progress, left_in_words, read_progress, workers_in
from mergesearch.search.study.run_folder import RunFolder
from mergesearch.steps import step, units

from ..helpers import Data


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.001)
    monkeypatch.setattr(module, "WRITTEN", 1)


def test_a_run_tells_what_it_does(config: Data, tmp_path: Path) -> None:
    told: list[Doing] = []
    plan = open_plan(Config.model_validate(config), "config")
    run(plan, tmp_path, Watcher(doing=lambda now, others: told.append(now) if not others else pytest.fail("alone")))
    words = " ".join(each.in_words for each in told)
    assert "items" in words
    assert "verdict" in words
    assert any(each.left for each in told)
    assert {each.trials for each in told} >= {0, 17}
    assert read_progress(tmp_path / "small") is not None
    assert not list((tmp_path / "small").glob(f"{NOW}/*")), "nobody works on it any more"


def test_workers_know_of_each_other(config: Data, tmp_path: Path) -> None:
    plan = open_plan(Config.model_validate(config), "config")
    mine, other = RunFolder(tmp_path), RunFolder(tmp_path)
    heard: list[tuple[Doing, list[Doing]]] = []
    with mine.joined(), other.joined():
        listener = Watcher(doing=lambda now, others: heard.append((now, list(others))))
        with underway(other, plan, Watcher()), step("trial 4"), step("scoring", 6, "items"), units(3):
            pass
        with underway(mine, plan, listener), step("trial 5"), step("scoring", 6, "items"):
            with underway(other, plan, Watcher()):
                _wait_until(lambda: bool(heard) and heard[-1][0].what != "" and any(each.what for each in heard[-1][1]))
                now, others = heard[-1]
            seen = workers_in(tmp_path)
    assert {each.worker for each in seen} == {mine.worker, other.worker}
    assert (now.worker, now.in_words) == (mine.worker, "trial 5: scoring, 0/6 items")
    assert [each.worker for each in others] == [other.worker]


def _wait_until(is_true: object, seconds: float = 60.0) -> None:
    import time

    begun = time.monotonic()
    while not is_true():  # type: ignore[operator]
        assert time.monotonic() - begun < seconds
        time.sleep(0.005)


def test_the_worker_that_knows_most_trials_says_what_is_left() -> None:
    from time import time

    one = Doing("one", "", trials=3, left=7200.0, at=time())
    two = Doing("two", "", trials=5, left=3600.0, at=time() - 60, at_most=True)
    assert left_in_words([one]) in ("about 2:00:00 left", "about 1:59:59 left")
    assert left_in_words([one, two]) in ("at most 0:59:00 left", "at most 0:58:59 left")
    assert left_in_words([Doing("three", "")]) == ""
    assert left_in_words([]) == ""


def test_a_file_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    assert read_progress(tmp_path) is None
    (tmp_path / FILE).write_text(json.dumps({"trials": "many"}))
    assert read_progress(tmp_path) is None
    (tmp_path / FILE).write_text(json.dumps(vars(Progress(3, 9, 1, "one", 0.5, 0.0))))
    assert read_progress(tmp_path) == Progress(3, 9, 1, "one", 0.5, 0.0)
