"""Candidates that end the process that scores them, or that take too long."""

import multiprocessing
import os
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from mergesearch.errors import UserError
from mergesearch.search.scoring import time_limit
from mergesearch.search.scoring.time_limit import TimedOutError, limited
from mergesearch.search.study import attempts
from mergesearch.search.study import trials as t

from ..helpers import Data, go, study_of

ROOT = Path(__file__).parents[3]
JUDGE = """
import ctypes, os, signal, sys, threading, time
from pathlib import Path

HERE = Path(__file__).parent


def judge(model, tokenizer, items):
    candidate = repr(float(sum(p.double().sum() for p in model.parameters())))
    with (HERE / "calls.txt").open("a") as calls:
        calls.write(candidate + "\\n")
    distinct = list(dict.fromkeys((HERE / "calls.txt").read_text().split()))
    if len(distinct) >= NUMBER and distinct[NUMBER - 1] == candidate and not items[0].startswith("SPARED"):
        ACT
    return {item: (hash(item + candidate) % 97) / 97 for item in items}


judge.items = [f"item {n}" for n in range(24)]
"""


@pytest.fixture
def judged(config: Data, tmp_path: Path, request: pytest.FixtureRequest) -> Data:
    """A config whose judge does what the fixture's parameter says, with the second candidate."""
    return with_judge(config, tmp_path, request.param)


def with_judge(config: Data, tmp_path: Path, act: str, number: int = 2) -> Data:
    file = tmp_path / "judge.py"
    file.write_text(JUDGE.replace("NUMBER", str(number)).replace("ACT", act))
    config["evaluate"]["tasks"] = [{"evaluator": "function", "task": "judged", "function": f"{file}:judge"}]
    config["search"] |= {"trials": 10, "racing": False}
    config["output"]["model"] = False
    return config


def work(config: Data, results: Path, grace: float | None) -> None:
    torch.set_num_threads(1)
    if grace is not None:
        time_limit.GRACE = grace
    try:
        go(config, results)
    except UserError:
        os._exit(2)


def process(config: Data, results: Path, grace: float | None = None) -> Any:
    """A fresh process at the run, which may die: a fork beside the threads of earlier tests may die of itself."""
    started = multiprocessing.get_context("spawn").Process(target=work, args=(config, results, grace))
    with mock.patch.object(sys, "path", [str(ROOT), *sys.path]):  # where it finds this module
        started.start()
    return started


def ran(config: Data, results: Path, grace: float | None = None) -> int:
    """The exit code of a process at the run."""
    started = process(config, results, grace)
    started.join(120)
    return int(started.exitcode)


def failed(study: Study) -> list[FrozenTrial]:
    return [trial for trial in t.finished(study) if trial.state == TrialState.FAIL]


@pytest.mark.parametrize(
    ("judged", "status", "reason"),
    [
        ("ctypes.string_at(0)", -11, r"by signal 11, segmentation fault in .*ctypes"),
        pytest.param(
            "os.kill(os.getpid(), signal.SIGKILL)",
            -9,
            r"probably by signal 9, out of memory: it left no trace",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "os._exit(0)",
            1,
            r"by os\._exit\(0\), which was called in .*judge\.py, line",
            marks=pytest.mark.slow,
        ),
        pytest.param("os.abort()", -6, r"by signal 6, aborted in .*judge\.py", marks=pytest.mark.slow),
    ],
    indirect=["judged"],
)
def test_a_candidate_that_ends_its_process_is_tried_twice(
    judged: Data, tmp_path: Path, status: int, reason: str
) -> None:
    assert [ran(judged, tmp_path) for _ in range(3)] == [status, status, 0]
    study = study_of(tmp_path / "small")
    (lost,) = failed(study)
    assert lost.user_attrs[t.REASON].startswith("CandidateRefusedError: the process ended while it scored this candid")
    assert re.search(reason, lost.user_attrs[t.REASON])
    assert len(t.finished(study)) == 10
    calls = Counter((tmp_path / "judge.py").with_name("calls.txt").read_text().split())
    assert (tmp_path / "small" / "verdict.json").exists()
    assert max(calls.values()) == 2


BOTH_HAVE_CALLED = """
    (HERE / f"called-{os.getpid()}").touch()
    while len(list(HERE.glob("called-*"))) < 2:
        time.sleep(0.02)
"""


def test_a_crash_does_not_take_the_other_worker_along(config: Data, tmp_path: Path) -> None:
    """The third candidate crashes: it is begun when both workers have been at another one."""
    data, judge = with_judge(config, tmp_path, "ctypes.string_at(0)", 3), tmp_path / "judge.py"
    judge.write_text(judge.read_text().replace("    candidate =", f"{BOTH_HAVE_CALLED}    candidate ="))
    workers = [process(data, tmp_path) for _ in range(2)]
    for worker in workers:
        worker.join(120)
    lost = failed(study_of(tmp_path / "small"))  # that candidate, and where it is asked for again
    assert lost
    left = {file.name: file.read_text() for file in (tmp_path / "small" / "attempts").iterdir()}
    assert sorted(worker.exitcode for worker in workers) == [-11, 0], left
    assert all("this candidate, by signal 11" in trial.user_attrs[t.REASON] for trial in lost)


@pytest.mark.slow
def test_a_process_that_is_killed_from_outside_loses_nothing(config: Data, tmp_path: Path) -> None:
    data = with_judge(config, tmp_path, "(HERE / 'here').touch(); time.sleep(0 if (HERE / 'go').exists() else 60)")
    victim = process(data, tmp_path)
    while not (tmp_path / "here").exists():
        time.sleep(0.02)
    victim.kill()
    victim.join()
    (tmp_path / "go").touch()
    assert ran(data, tmp_path) == 0
    assert failed(study_of(tmp_path / "small")) == []
    assert list((tmp_path / "small" / "attempts").iterdir()) == []


@pytest.mark.parametrize(
    "judged", ["sys.exit(0)", "raise SystemExit", "raise __import__('asyncio').CancelledError"], indirect=True
)
def test_an_exit_fails_its_candidate_alone(judged: Data, tmp_path: Path) -> None:
    assert go(judged, tmp_path).trials == 10
    (lost,) = failed(study_of(tmp_path / "small"))
    assert lost.user_attrs[t.REASON].startswith("task 'judged': ")
    assert "judge.py, line" in lost.user_attrs[t.REASON]


LONG = [
    "time.sleep(60)",
    pytest.param("while True: pass", marks=pytest.mark.slow),
    pytest.param("__import__('subprocess').run(['sleep', '60'])", marks=pytest.mark.slow),
    pytest.param("threading.Event().wait()", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("judged", LONG, indirect=True)
def test_a_candidate_that_takes_too_long_fails_alone(judged: Data, tmp_path: Path) -> None:
    judged["search"]["trial_timeout"] = 1.5
    assert go(judged, tmp_path).trials == 10
    (lost,) = failed(study_of(tmp_path / "small"))
    assert lost.user_attrs[t.REASON] == "TimedOutError: took longer than search.trial_timeout allows, 1.5 s"


HANG_WITH_LOCK = "ctypes.PyDLL(None).sleep(60)"
HANG_WITHOUT_LOCK = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGVTALRM]); ctypes.CDLL(None).sleep(60)"


@pytest.mark.parametrize(
    "judged", [HANG_WITH_LOCK, pytest.param(HANG_WITHOUT_LOCK, marks=pytest.mark.slow)], indirect=True
)
def test_code_that_cannot_be_interrupted_ends_its_process_once(judged: Data, tmp_path: Path) -> None:
    judged["search"]["trial_timeout"] = 1.5
    assert ran(judged, tmp_path, grace=0.5) in (1, 2)
    assert ran(judged, tmp_path, grace=0.5) == 0
    (lost,) = failed(study_of(tmp_path / "small"))
    assert "this candidate, by " in lost.user_attrs[t.REASON]
    assert "time" in lost.user_attrs[t.REASON]


FORKS = [
    "os.fork()",
    pytest.param("if os.fork() == 0: raise ValueError('only in the child')", marks=pytest.mark.slow),
    pytest.param("if os.fork() == 0: sys.exit(0)", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("judged", FORKS, indirect=True)
def test_a_forked_child_that_comes_back_does_not_go_on_with_the_run(judged: Data, tmp_path: Path) -> None:
    assert ran(judged, tmp_path) == 0
    study = study_of(tmp_path / "small")
    assert len(study.get_trials()) == 10
    assert failed(study) == []


@pytest.mark.slow
def test_a_child_that_outlives_its_parent_does_not_hold_the_runs_lock(config: Data, tmp_path: Path) -> None:
    act = "child = os.fork(); (HERE / 'child').write_text(str(child or os.getpid())); time.sleep(60)"
    data = with_judge(config, tmp_path, f"exec({act!r}) if not (HERE / 'child').exists() else None")
    victim = process(data, tmp_path)
    until_written(tmp_path / "child")
    victim.kill()
    victim.join()
    began = time.monotonic()
    assert ran(data, tmp_path) == 0
    assert time.monotonic() - began < 45, "it does not wait for the child, which sleeps for a minute"
    os.kill(int((tmp_path / "child").read_text()), 9)


def until_written(file: Path) -> None:
    while not file.exists() or not file.read_text():
        time.sleep(0.02)


def test_outside_the_main_thread_code_is_interrupted_too(tmp_path: Path) -> None:
    caught: list[BaseException] = []

    def score() -> None:
        with (tmp_path / "log").open("w") as log:
            try:
                with limited(0.3, log):
                    for _ in range(10**9):
                        time.sleep(0.01)
            except TimedOutError as error:
                caught.append(error)

    thread = time_limit.threading.Thread(target=score)
    thread.start()
    thread.join(60)
    assert [str(error) for error in caught] == ["took longer than search.trial_timeout allows, 0.3 s"]


def test_a_candidate_in_time_is_not_interrupted(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log, limited(60, log):
        pass
    time.sleep(0.05)
    assert (tmp_path / "log").read_text() == ""


def test_what_the_kernel_killed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = tmp_path / "memory.events"
    counter.write_text("low 0\noom 1\noom_kill 1\n")
    monkeypatch.setattr(attempts, "_OOM_COUNTERS", (counter,))
    assert attempts._killed_in_words(1) == ""
    assert attempts._killed_in_words(0) == "by signal 9, out of memory: the kernel killed it"
    assert attempts._killed_in_words(None) == ""


def test_a_candidate_that_takes_too_long_on_the_test_items_is_left_out(config: Data, tmp_path: Path) -> None:
    with_judge(config, tmp_path, "HERE.joinpath('test.txt').exists() and time.sleep(60)")
    go(config, tmp_path)
    folder = tmp_path / "small"
    for file in (folder / "verdict.json", *(folder / "scores").glob("test-*")):
        file.unlink()
    (tmp_path / "test.txt").touch()
    config["search"]["trial_timeout"] = 1.0
    verdict = go(config, tmp_path)
    assert verdict.left_out
    for left in verdict.left_out:  # all that are the same model
        assert "took longer than search.trial_timeout allows, 1 s" in left.reason
