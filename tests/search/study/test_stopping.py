"""What ends a search."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.study import Study
from optuna.trial import TrialState, create_trial
from pydantic import ValidationError

from mergesearch.errors import UserError
from mergesearch.search.config import Search
from mergesearch.search.report.sections.headline import facts
from mergesearch.search.study import trials as t
from mergesearch.search.study.stopping import seconds_spent, trials_an_hour, why_ended

from ..helpers import Data, course, go, study_of

NOON = datetime(2030, 1, 1, 12)


def study_with(*values: float, baselines: int = 2) -> Study:
    study = optuna.create_study(direction="maximize")
    for number, value in enumerate(values):
        kind = t.BASELINE if number < baselines else t.SAMPLED
        study.add_trial(create_trial(value=value, user_attrs={t.KIND: kind, t.NAME: f"b{number}"}))
    return study


def add_span(study: Study, begin: float, end: float, **attributes: Any) -> None:
    trial = create_trial(value=0.0, user_attrs=attributes)
    trial.state = TrialState.FAIL if attributes else TrialState.COMPLETE
    trial.values = None if attributes else [0.0]
    trial.datetime_start, trial.datetime_complete = (NOON + timedelta(seconds=second) for second in (begin, end))
    study.add_trial(trial)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2h30m", 9000), ("90m", 5400), ("45s", 45), ("1.5h", 5400), ("1h 1m 1s", 3661), ("30", 30), (12.5, 12.5)],
)
def test_durations(text: Any, seconds: float) -> None:
    assert Search(timeout=text).timeout == seconds


@pytest.mark.parametrize("text", ["", "soon", "2 days", "1..5h", "0s", -1])
def test_no_durations(text: Any) -> None:
    with pytest.raises(ValidationError, match="timeout"):
        Search(timeout=text)


def test_spans_that_overlap_count_once_and_pauses_do_not() -> None:
    study = study_with()
    for begin, end in ((0, 10), (5, 12), (6, 8), (1000, 1003)):
        add_span(study, begin, end)
    add_span(study, 2000, 9000, **{t.REASON: t.INTERRUPTED})
    assert seconds_spent(study) == 15
    assert why_ended(study, Search(timeout=15), False) == "the timeout is reached: the trials took 15 s of 15 s"
    assert why_ended(study, Search(timeout=15.5), True) is None
    ended = why_ended(study, Search(timeout=15.5), True, seconds_beside=1)
    assert ended == "the timeout is reached: the trials took 16 s of 16 s"


def test_the_rate_is_that_of_the_last_trials_without_pauses() -> None:
    study = optuna.create_study(direction="maximize")
    assert trials_an_hour(study, 2) is None
    for begin, end in ((0, 1000), (1000, 1010), (5000, 5010)):
        add_span(study, begin, end)
    assert trials_an_hour(study, 2) == 360
    add_span(study, 5000, 5010)
    assert trials_an_hour(study, 2) == 720


def test_patience_counts_the_trials_since_the_best_beside_the_baselines() -> None:
    rules = Search(patience=2)
    assert why_ended(study_with(1, 3, 2), rules, True) is None
    ended = why_ended(study_with(1, 3, 2, 3), rules, True)
    assert ended == "the patience is used up: 2 trials since the best, b1"
    assert why_ended(study_with(1, 3, 2, 4), rules, True) is None
    assert why_ended(study_with(1, 3, 2, 4, 4, 3), rules, True)
    assert why_ended(study_with(3, 2, 2, 2), rules, False) is None


def test_target() -> None:
    assert why_ended(study_with(1, 2, 2.9), Search(target=3), True) is None
    assert (
        why_ended(study_with(1, 2, 3), Search(target=3), True) == "trial 2 reached the target: score 3.0000, target 3"
    )
    assert why_ended(study_with(3), Search(target=3), False) is None


def test_trials_in_work_count() -> None:
    study = study_with(1, 2, 3)
    study.ask()
    assert why_ended(study, Search(trials=4), True) == "all 4 trials are done"
    assert why_ended(study, Search(trials=5), True) is None


def test_several_objectives_have_no_one_score() -> None:
    study = optuna.create_study(directions=["maximize", "maximize"])
    with pytest.raises(UserError, match="patience and target need a single objective"):
        why_ended(study, Search(patience=3), True)


@pytest.mark.parametrize(("limit", "expected"), [({"target": -1e9}, 9), ({"patience": 1}, 10), ({"timeout": "1m"}, 17)])
def test_a_run_ends_with_its_verdict_and_goes_on_when_the_limit_is_lifted(
    config: Data, tmp_path: Path, limit: Data, expected: int
) -> None:
    go(config, tmp_path / "whole")
    undisturbed = course(tmp_path / "whole" / "small")
    before = config["search"]
    config["search"] = {**before, **limit}
    verdict = go(config, tmp_path)
    assert verdict.ended
    assert verdict.ended in " ".join(facts(verdict))
    done = course(tmp_path / "small")
    assert expected <= len(done) <= 17
    assert done == undisturbed[: len(done)]
    config["search"] = before
    go(config, tmp_path)
    assert course(tmp_path / "small") == undisturbed
    assert TrialState.WAITING not in {trial.state for trial in study_of(tmp_path / "small").get_trials()}
