"""The time that is left to a run, from trials whose times are known."""

from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from mergesearch.search.candidates.plan import open_plan
from mergesearch.search.config import Config
from mergesearch.search.optimize import time_left
from mergesearch.search.optimize.time_left import CANDIDATES, LAST, RACED, STEP_COST, TimeLeft
from mergesearch.search.scoring.scorer import SCORING
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_folder import RunFolder
from mergesearch.steps import Step

from ..helpers import Data

BASELINES = 12
FULL = 100.0


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time_left, "time", clock)
    return clock


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study(direction="maximize")


@pytest.fixture
def left(config: Data, clock: Clock) -> TimeLeft:
    assert clock.now
    return left_of(config)


def left_of(config: Data, trials: int = BASELINES + 8) -> TimeLeft:
    config["search"]["trials"] = trials
    plan = open_plan(Config.model_validate(config), "config")
    assert len(plan.baselines) == BASELINES
    return TimeLeft(plan)


def add(study: optuna.Study, count: int, seconds: float, kind: str) -> None:
    for _ in range(count):
        begin = datetime(2030, 1, 1) + timedelta(hours=len(study.trials))
        study.add_trial(
            optuna.trial.FrozenTrial(
                number=-1,
                trial_id=-1,
                state=TrialState.COMPLETE,
                value=0.0,
                values=None,
                datetime_start=begin,
                datetime_complete=begin + timedelta(seconds=seconds),
                params={},
                distributions={},
                user_attrs={t.KIND: kind, t.ITEMS: 6, t.NAME: f"{kind} {len(study.trials)}"},
                system_attrs={},
                intermediate_values={},
            )
        )


def view(study: optuna.Study, folder: Path | None = None) -> Any:
    store = SimpleNamespace(folder=RunFolder(folder or Path("nowhere")))
    return SimpleNamespace(study=study, store=store)


def verdict(full: float) -> float:
    """Six search items and six test items; the baselines and the winner are judged."""
    return full * (BASELINES + 1)


def trial(clock: Clock, since: float, done: float = 0.0) -> list[Step]:
    begun = clock.now - since
    return [Step("trial 3", begun=begun), Step(SCORING, 6, "items", done, begun)]


def test_nothing_is_known_before_an_item_is_scored(left: TimeLeft, clock: Clock) -> None:
    assert left.seconds([], 1) is None
    assert left.seconds([Step("reading models", begun=0.0)], 1) is None
    assert left.seconds(trial(clock, 10.0), 1) is None


def test_within_the_first_trial(left: TimeLeft, clock: Clock) -> None:
    """After a quarter of its items in 25 seconds, a trial takes 100, as do the other baselines."""
    seconds = left.seconds(trial(clock, 25.0, 1.5), 1)
    assert seconds == pytest.approx(BASELINES * FULL + 8 * RACED * FULL - 25 + verdict(FULL))


def test_racing_is_taken_into_account(left: TimeLeft, study: optuna.Study) -> None:
    add(study, BASELINES, FULL, t.BASELINE)
    left.note(view(study))
    assert left.seconds([], 1) == pytest.approx(8 * RACED * FULL + verdict(FULL))
    found = []
    for _ in range(4):
        add(study, 1, 10.0, t.SAMPLED)
        left.note(view(study))
        found.append(left.seconds([], 1))
    assert found[-1] == pytest.approx(4 * (RACED * FULL + 4 * 10.0) / 5 + verdict(FULL))
    assert all(a and b and a > b for a, b in pairwise(found))
    assert left.trials == BASELINES + 4


def test_the_last_trials_count(config: Data, clock: Clock, study: optuna.Study) -> None:
    assert clock.now
    left = left_of(config, trials=100)
    add(study, BASELINES, FULL, t.BASELINE)
    add(study, 20, 1000.0, t.SAMPLED)
    add(study, LAST, 10.0, t.SAMPLED)
    left.note(view(study))
    each = (RACED * FULL + LAST * 10.0) / (1 + LAST)
    assert left.seconds([], 1) == pytest.approx((100 - BASELINES - 20 - LAST) * each + verdict(FULL))


def test_time_passes(left: TimeLeft, clock: Clock, study: optuna.Study) -> None:
    """A trial that takes longer than those before it is expected to end any moment."""
    add(study, BASELINES - 1, FULL, t.BASELINE)
    left.note(view(study))
    clock.now += 30
    before = 1 * FULL + 8 * RACED * FULL + verdict(FULL)
    assert left.seconds(trial(clock, 30.0, 1.0), 1) == pytest.approx(before - 30)
    clock.now += 300
    assert left.seconds(trial(clock, 330.0, 1.0), 1) == pytest.approx(before - FULL)


def test_workers_share_the_work(left: TimeLeft, clock: Clock, study: optuna.Study) -> None:
    add(study, BASELINES, FULL, t.BASELINE)
    left.note(view(study))
    each = RACED * FULL
    assert left.seconds([], 4) == pytest.approx((8 * each - 3 * each / 2) / 4 + verdict(FULL))
    clock.now += 10
    assert left.seconds(trial(clock, 10.0, 1.0), 4) == pytest.approx((8 * each - 3 * each / 2) / 4 - 10 + verdict(FULL))


def test_a_timeout(config: Data, clock: Clock, study: optuna.Study) -> None:
    config["search"]["timeout"] = BASELINES * FULL + 50
    left = left_of(config)
    add(study, BASELINES, FULL, t.BASELINE)
    left.note(view(study))
    assert left.seconds([], 1) == pytest.approx(50 + verdict(FULL))
    clock.now += 20
    assert left.seconds([], 1) == pytest.approx(30 + verdict(FULL))
    assert not left.at_most


def test_a_run_that_may_end_earlier(config: Data) -> None:
    assert left_of({**config, "search": {**config["search"], "patience": 3}}).at_most
    assert left_of({**config, "search": {**config["search"], "target": 0.9}}).at_most


def test_a_descent(config: Data, clock: Clock, study: optuna.Study, tmp_path: Path) -> None:
    config["search"] |= {"start": "gradient", "gradient": {"steps": 8, "items": 0.25, "points": 2}}
    left = left_of(config)
    add(study, BASELINES, FULL, t.BASELINE)
    left.note(view(study, tmp_path))
    trials = 8 * RACED * FULL + verdict(FULL)
    assert left.seconds([], 1) == pytest.approx(8 * STEP_COST * 0.25 * FULL + trials)
    leg = [Step("choosing a candidate"), Step(time_left.DESCENT, 4, "steps", 2.0, clock.now - 30)]
    assert left.seconds(leg, 1) == pytest.approx(6 * 15.0 + trials)
    add(study, 1, RACED * FULL, t.SAMPLED)
    left.note(view(study, tmp_path))
    assert left.seconds([], 1) == pytest.approx(7 * RACED * FULL + verdict(FULL)), "the descent is over"


def test_within_the_verdict(left: TimeLeft, clock: Clock, study: optuna.Study) -> None:
    add(study, BASELINES, FULL, t.BASELINE)
    left.note(view(study))
    judging = Step("verdict", 10, CANDIDATES, 0.0, clock.now - 40)
    assert left.seconds([judging], 1) == pytest.approx(10 * FULL - 40)
    judging.done = 4.0
    assert left.seconds([judging], 1) == pytest.approx(6 * 10.0)
