"""From the demo's config to a proven, written model, through a kill, and against lm_eval's own command line."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna.trial import TrialState

from mergesearch.demo import LANGUAGES, TINY
from mergesearch.search.report.runs_page import RunState
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_folder import RunFolder
from mergesearch.search.study.workers import Workers

from ..tolerances import close, tolerance
from .conftest import CONFIG, Place

TRIALS = 20
MANY_TRIALS = 60
"""So many that a second worker has begun before they are done."""
TASKS = [f"demo_{language}" for language in LANGUAGES]


def course(folder: Path) -> list[tuple[Any, ...]]:
    """What the finished trials were and scored, in order."""
    trials = t.finished(RunFolder(folder).open_study(None))
    return [(trial.user_attrs[t.RECIPE], trial.user_attrs[t.VALUES], trial.value) for trial in trials]


@pytest.fixture(scope="module")
def whole(place: Place) -> Path:
    """A run that nothing disturbed."""
    place.call("run", CONFIG, "--trials", TRIALS, "--name", "whole")
    return place.run_folder("whole")


def kill_at(place: Place, name: str, trials: int, delay: float = 0.0) -> None:
    """Starts a run and kills it as soon as it has that many per-item score files, and a little later."""
    process = place.start("run", CONFIG, "--trials", TRIALS, "--name", name)
    scores = place.run_folder(name) / "scores"
    while process.poll() is None and len(list(scores.glob("trial-*"))) < trials:
        time.sleep(0.02)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def assert_same_run(one: Path, two: Path) -> None:
    assert course(one) == course(two)
    states = [trial.state for trial in RunFolder(two).open_study(None).get_trials()]
    assert states.count(TrialState.COMPLETE) + states.count(TrialState.PRUNED) == TRIALS
    assert not {TrialState.RUNNING, TrialState.WAITING} & set(states)
    for name in ("best.yml", "model/model.safetensors"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_killed_in_the_middle_of_a_trial_and_started_again(place: Place, whole: Path) -> None:
    kill_at(place, "killed", 13, 0.05)
    place.call("run", CONFIG, "--trials", TRIALS, "--name", "killed")
    assert_same_run(whole, place.run_folder("killed"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_killed_again_and_again(place: Place, whole: Path, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(3):
        kill_at(place, f"again-{seed}", rng.randrange(TRIALS), rng.random())
    place.call("run", CONFIG, "--trials", TRIALS, "--name", f"again-{seed}")
    assert_same_run(whole, place.run_folder(f"again-{seed}"))


def test_interrupted_with_ctrl_c(place: Place, whole: Path) -> None:
    process = place.start("run", CONFIG, "--trials", TRIALS, "--name", "stopped")
    while not list((place.run_folder("stopped") / "scores").glob("trial-*")):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert "the same command resumes the run" in err
    assert "Traceback" not in err
    place.call("run", CONFIG, "--trials", TRIALS, "--name", "stopped")
    assert_same_run(whole, place.run_folder("stopped"))


def living_workers(folder: Path) -> list[int]:
    return [int(name.split(".")[-2]) for name in Workers(folder / "workers").living()]


@pytest.mark.slow
def test_two_workers_of_which_one_is_killed(place: Place) -> None:
    process = place.start("run", CONFIG, "--trials", MANY_TRIALS, "--name", "crew", "--workers", "2")
    folder = place.run_folder("crew")
    while len(list((folder / "scores").glob("trial-*"))) < 8 or len(living_workers(folder)) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(living_workers(folder)[0], signal.SIGKILL)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "died of SIGKILL" in out
    assert "report: " in out
    states = [trial.state for trial in RunFolder(folder).open_study(None).get_trials()]
    assert states.count(TrialState.COMPLETE) + states.count(TrialState.PRUNED) == MANY_TRIALS
    assert not {TrialState.RUNNING, TrialState.WAITING} & set(states)
    assert not list((folder / "workers").iterdir())


@pytest.mark.slow
def test_two_workers_that_are_asked_to_stop(place: Place) -> None:
    process = place.start("run", CONFIG, "--trials", 10 * MANY_TRIALS, "--name", "asked", "--workers", "2")
    folder = place.run_folder("asked")
    while len(living_workers(folder)) < 2 or not list((folder / "scores").glob("trial-*")):
        assert process.poll() is None
        time.sleep(0.02)
    assert place.call("stop", "asked").count("stops after its trial") == 2
    _, err = process.communicate()
    assert process.returncode == 130
    assert "the same command resumes the run" in err
    assert place.call("stop", "asked") == "asked: nobody works on it\n"
    states = [trial.state for trial in RunFolder(folder).open_study(None).get_trials()]
    assert TrialState.RUNNING not in states, "each worker ends its trial"


def test_what_is_scored_is_what_is_saved_and_what_lm_eval_prints(place: Place, whole: Path) -> None:
    place.call("merge", whole / "recommended.yml", "merged")
    merged = place.folder / "merged"
    assert (merged / "model.safetensors").read_bytes() == (whole / "model" / "model.safetensors").read_bytes()
    verdict = RunState(whole).verdict
    assert verdict is not None
    recorded = verdict.recommended_row.tasks
    printed = lm_eval(place, merged)
    evaluated = json.loads(place.call("eval", "merged", CONFIG, "--json"))["tasks"]
    for task in TASKS:
        # But for choices between lines that are equally likely, which batches of other shapes may make otherwise.
        room = printed[task]["ties"] / TINY.items + tolerance(TINY.items)
        assert recorded[task]["all"] == pytest.approx(printed[task]["acc,none"], rel=0, abs=room)
        assert evaluated[task]["acc"] == pytest.approx(printed[task]["acc,none"], rel=0, abs=room)
        assert printed[task]["ties"] < TINY.items / 4, "too few items are compared"


def lm_eval(place: Place, model: Path) -> dict[str, Any]:
    """What the harness's own command line says of a folder, and how many of its choices hang on rounding."""
    out = place.folder / "lm_eval"
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--model_args", f"pretrained={model}"]
    command += ["--tasks", ",".join(TASKS), "--include_path", "results/demo/tasks", "--output_path", str(out)]
    command += ["--log_samples"]
    done = subprocess.run(
        [*command, "--device", "cpu"],
        cwd=place.folder,
        env=place.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (found,) = out.rglob("results*.json")
    results: dict[str, Any] = json.loads(found.read_text())["results"]
    return {task: {**results[task], "ties": ties(out, task)} for task in TASKS}


def ties(out: Path, task: str) -> int:
    """Items whose log-probabilities are within two thousand roundings of each other (see ``path_length``)."""
    (samples,) = out.rglob(f"samples_{task}_*.jsonl")
    said = [json.loads(line)["filtered_resps"] for line in samples.read_text().splitlines()]
    pairs = [(float(one[0]), float(two[0])) for one, two in said]
    return sum(abs(one - two) <= tolerance(2000, torch.float32, abs(one)) for one, two in pairs)


def test_verdict(whole: Path) -> None:
    verdict = json.loads((whole / "verdict.json").read_text())
    names = [row["name"] for row in verdict["baselines"]]
    assert names[:9] == ["base", *LANGUAGES, "uniform soup", "task_arithmetic", "ties", "dare_ties"]
    assert "greedy soup" in names
    best = max(verdict["baselines"], key=lambda row: row["test"]["value"])
    if verdict["winner"]["trial"] in [row["trial"] for row in verdict["baselines"]]:
        best = verdict["winner"]  # it is its own rival
    assert verdict["best_baseline"] == best["name"]
    difference = verdict["winner"]["test"]["value"] - best["test"]["value"]
    assert verdict["difference"]["value"] == close(difference, 4 * TINY.items, magnitude=1.0)
    for row in [*verdict["baselines"], verdict["winner"]]:
        for side in ("search", "test"):
            assert row[side]["low"] <= row[side]["value"] <= row[side]["high"]
        assert set(row["tasks"]) == set(TASKS)
