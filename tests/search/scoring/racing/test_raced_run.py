"""Whole runs in which candidates are raced: what is stopped, what is told of it, and that runs can be killed."""

import random
from pathlib import Path
from typing import Any

import pytest
from optuna.samplers import RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from mergesearch.evaluators import LoadedModel
from mergesearch.evaluators.tasks.bits_per_byte import BitsPerByte
from mergesearch.search.candidates.plan import open_plan
from mergesearch.search.config import Config
from mergesearch.search.optimize.callbacks import Watcher
from mergesearch.search.run import run
from mergesearch.search.samplers import StudyWithEstimates
from mergesearch.search.samplers.optuna_samplers import InSpaceSampler
from mergesearch.search.scoring.live_model import open_engine
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_folder import RunFolder
from mergesearch.search.study.trials import recipe_of

from ....tolerances import close
from ...helpers import Data, course, go, killed, searched, study_of, written


@pytest.fixture
def raced(config: Data, tmp_path: Path) -> Data:
    """The small search with texts enough for a race, and blocks small enough for several."""
    rng = random.Random(0)
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(160):
        (folder / f"{number:03}.txt").write_text("".join(rng.choices("abcdefghij ", k=40)))
    config["evaluate"]["tasks"][0]["files"] = [str(folder / "*.txt")]
    config["search"] |= {"trials": 22, "racing": {"first_block": 16}}
    return config


def test_stopped_trials_cost_less_and_never_win(raced: Data, tmp_path: Path) -> None:
    verdict = go(raced, tmp_path)
    study = study_of(tmp_path / "small")
    stopped = t.stopped(study)
    assert len(stopped) >= 3
    assert all(t.kind_of(trial) != t.BASELINE for trial in stopped)
    assert all(0 < trial.user_attrs[t.ITEMS] < 80 for trial in stopped)
    values = {trial.number: trial.value for trial in study.get_trials()}
    for trial in stopped:
        estimate = -trial.user_attrs[t.VALUES]["text"]
        assert trial.value == close(min(estimate, values[trial.user_attrs[t.AGAINST]]), 4)
    winner = study.get_trials()[verdict.winner.trial]
    assert winner.state == TrialState.COMPLETE
    assert winner.value == max(trial.value for trial in searched(study))
    assert len(t.finished(study)) == 22


def test_the_best_of_those_that_were_stopped_is_judged_where_no_other_is_left(raced: Data, tmp_path: Path) -> None:
    """Its search items are scored in full for that, once."""
    for model in raced["recipe"]["models"]:
        model["parameters"] = {"weight": {"search": [40.0, 60.0]}}
    raced["recipe"]["merge_method"] = "task_arithmetic"  # ties divides by the sum of the weights
    verdict = go(raced, tmp_path)
    study = study_of(tmp_path / "small")
    assert not searched(study)
    best = t.best(t.stopped(study))
    assert verdict.winner.trial == best.number
    assert written(tmp_path / "small" / "best.yml") == recipe_of(best).to_yaml()
    assert verdict.winner.search.value < max(each.search.value for each in verdict.baselines)
    assert verdict.recommended != verdict.winner.name
    assert go(raced, tmp_path) == verdict


def test_what_was_stopped_is_worse_and_the_estimate_is_near(raced: Data, tmp_path: Path) -> None:
    go(raced, tmp_path / "raced")
    raced["search"]["racing"] = False
    raced["search"]["sampler"] = "random"
    problem = open_plan(Config.model_validate(raced), "config").problem
    engine = open_engine(problem, takes_gradients=False)
    study = study_of(tmp_path / "raced" / "small")
    values = {trial.number: trial.value for trial in study.get_trials()}
    for trial in t.stopped(study):
        engine.build(recipe_of(trial))
        scores = problem.tasks.score(LoadedModel(engine.model, engine.tokenizer), "search")
        truth = problem.tasks.combined("search", scores)
        assert truth < values[trial.user_attrs[t.AGAINST]]
        # From a part of the items, with a forecast of the others.
        assert trial.value == pytest.approx(truth, abs=0.01)


@pytest.mark.parametrize(("place", "call"), [("score", 20), ("tell", 13)])
def test_killed_in_a_race_and_resumed(
    raced: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, call: int
) -> None:
    raced["search"]["trials"] = 16
    go(raced, tmp_path / "whole")
    killed(monkeypatch, place, call, raced, tmp_path / "torn")
    go(raced, tmp_path / "torn")
    assert course(tmp_path / "torn" / "small") == course(tmp_path / "whole" / "small")
    for name in ("best.yml", "model/model.safetensors"):
        assert (tmp_path / "torn" / "small" / name).read_bytes() == (tmp_path / "whole" / "small" / name).read_bytes()


def test_without_racing_every_candidate_is_scored_in_full(raced: Data, tmp_path: Path) -> None:
    raced["search"] |= {"racing": False, "trials": 14}
    go(raced, tmp_path)
    assert not t.stopped(study_of(tmp_path / "small"))
    assert Config.read(tmp_path / "small" / "config.yml").search.racing is False


class Watching(RandomSampler):
    """Keeps the trials that it is shown as complete."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, Any]:  # noqa: ARG002
        self.shown = {one.number: one.value for one in study._get_trials(states=(TrialState.COMPLETE,))}
        return {}


def test_samplers_learn_from_stopped_trials(raced: Data, tmp_path: Path) -> None:
    raced["search"] |= {"trials": 15}
    go(raced, tmp_path)
    study, watching = study_of(tmp_path / "small"), Watching(seed=0)
    study.sampler = InSpaceSampler(watching)
    StudyWithEstimates(study).ask().suggest_float("x", 0, 1)
    assert t.stopped(study)
    in_space = [trial for trial in t.finished(study) if trial.params and trial.value is not None]
    assert watching.shown == {trial.number: trial.value for trial in in_space}


def test_a_candidate_identical_to_a_stopped_one_costs_nothing(
    raced: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raced["search"]["trials"] = 14
    go(raced, tmp_path)
    study = study_of(tmp_path / "small")
    twin = t.stopped(study)[0]
    study.enqueue_trial(twin.params)
    raced["search"]["trials"] = 15
    calls = []
    score = BitsPerByte.score
    monkeypatch.setattr(BitsPerByte, "score", lambda self, *args: calls.append(args[1]) or score(self, *args))
    plan = open_plan(Config.model_validate(raced), "config")
    searched: list[int] = []
    run(plan, tmp_path, Watcher(trial=lambda *_: searched.append(len(calls))))
    assert searched == [0]
    last = t.finished(study_of(tmp_path / "small"))[-1]
    assert (last.state, last.value, last.user_attrs[t.ITEMS]) == (TrialState.PRUNED, twin.value, 0)


def test_lost_scores_of_raced_trials_are_scored_again_in_the_same_batches(raced: Data, tmp_path: Path) -> None:
    """Scores of stopped trials are lost too: nobody reads them, and their candidates are not scored again."""
    raced["search"]["trials"] = 16
    go(raced, tmp_path)
    folder = RunFolder(tmp_path / "small")
    whole = {name: folder.load_scores(name)["text"].tolist() for name in folder.scores_names()}
    before = [(folder.path / name).read_bytes() for name in ("verdict.json", "best.yml", "report.html")]
    completed = [t.scores_name(trial.number) for trial in t.completed(study_of(folder.path))]
    for file in list((folder.path / "scores").iterdir()):
        if file.stem != completed[0]:
            file.unlink()
    (folder.path / "verdict.json").unlink()
    go(raced, tmp_path)
    for name in completed:
        assert folder.load_scores(name)["text"].tolist() == whole[name]
    assert [(folder.path / name).read_bytes() for name in ("verdict.json", "best.yml", "report.html")] == before
