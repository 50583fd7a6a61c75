"""Points that are drawn outside of the lock and ahead, and workers that are at different points, for every sampler."""

import random
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import optuna
import pytest
from optuna.trial import FrozenTrial, Trial, TrialState

from mergesearch.search.candidates.sampler_source import SamplerSource
from mergesearch.search.config import Search
from mergesearch.search.optimize.ask import Asker
from mergesearch.search.optimize.drawing import Drawing
from mergesearch.search.optimize.loop import Loop
from mergesearch.search.samplers import SAMPLERS
from mergesearch.search.samplers.local import LocalSampler
from mergesearch.search.samplers.schedule import Strategy
from mergesearch.search.session import Session
from mergesearch.search.space.space import Space
from mergesearch.search.study import trials as t
from mergesearch.search.study.journal import ChainedJournal
from mergesearch.search.study.leases import Leases
from mergesearch.search.study.run_folder import RunFolder
from mergesearch.search.study.run_store import RunStore
from mergesearch.search.study.workers import Workers

from ..helpers import Data, go, session_of
from ..samplers.test_samplers import SHAPES, Shape, new_study, sphere

AT_ONCE = 16


@dataclass
class Values:
    """Stands for a recipe."""

    values: dict[str, Any]

    def to_yaml(self) -> str:
        return str(self.values)


def fail(trial: Trial, error: Exception) -> None:
    raise AssertionError(trial.number) from error


class Asking:
    """Workers that ask one sampler for points of a shape."""

    def __init__(self, sampler: str, shape: Shape) -> None:
        self.study, self._shape = new_study(), shape
        source = SamplerSource(Strategy(shape, Search(sampler=sampler, trials=99)))  # type: ignore[arg-type]
        self._asker = Asker([source], source)
        self._leases = Leases(self.study, Workers(Path()), "one.1.1")
        store = cast(RunStore, self)
        self._drawing = Drawing(cast(Space, self), store, self._leases, fail)

    def ask(self, trial: Trial) -> Values:
        return Values(self._shape.ask(trial))

    def begin(self) -> Trial:
        asked = self._asker.ask(self.study)
        assert asked is not None
        self._leases.take(asked.trial)
        if asked.draw is None:
            self._shape.ask(asked.trial)
        else:
            assert self._drawing.recipe(asked.draw, nullcontext)
        return asked.trial

    def tell(self, trial: Trial) -> None:
        self.study.tell(trial, sphere(trial.params))


@pytest.mark.parametrize(
    ("sampler", "shape"),
    [
        pytest.param(sampler, shape, marks=[pytest.mark.slow] if sampler == "gp" and shape != "ranges" else [])
        for sampler in SAMPLERS
        for shape in SHAPES
    ],
)
def test_workers_are_at_different_points_and_tell_in_any_order(sampler: str, shape: str) -> None:
    workers, rng = Asking(sampler, SHAPES[shape]), random.Random(0)
    for _ in range(12):
        workers.tell(workers.begin())
    trials = [workers.begin() for _ in range(AT_ONCE)]
    assert len({str(sorted(trial.params.items())) for trial in trials}) == AT_ONCE
    rng.shuffle(trials)
    for trial in trials:
        workers.tell(trial)
    workers.tell(workers.begin())
    assert len([each for each in workers.study.get_trials() if each.state == TrialState.COMPLETE]) == 2 + 12 + 16 + 1


def test_a_space_with_fewer_points_than_workers_has_equal_ones() -> None:
    shape = Shape({"choice": optuna.distributions.CategoricalDistribution(("a", "b"))})
    workers = Asking("random", shape)
    assert {workers.begin().params["choice"] for _ in range(6)} == {"a", "b"}


@pytest.fixture
def local(config: Data, tmp_path: Path) -> Data:
    """A run of the baselines and three points of a sampler that takes long to ask."""
    config["search"] |= {"sampler": "local", "levels": "none", "start": "none", "trials": 15, "racing": False}
    go(config, tmp_path)
    config["search"]["trials"] = 40
    return config


@pytest.fixture
def pair(local: Data, tmp_path: Path) -> Iterator[tuple[Session, Session]]:
    """Two workers of the run."""
    one, two = (RunFolder(tmp_path / "small") for _ in range(2))
    with one.joined(), two.joined():
        yield session_of(local, tmp_path, one.worker), session_of(local, tmp_path, two.worker)


def asking_takes(session: Session, asking: float, scoring: float) -> None:
    """As measured at the worker's last trial."""
    session.loop._drawing._seconds, session.loop._drawing._scoring = asking, scoring


def aside(session: Session) -> list[FrozenTrial]:
    return [trial for trial in t.running(session.store.study) if Leases.is_aside(trial)]


def test_others_work_while_a_point_is_drawn(pair: tuple[Session, Session], monkeypatch: pytest.MonkeyPatch) -> None:
    drawing, is_over, calls = threading.Event(), threading.Event(), iter(range(99))
    free_point = LocalSampler.free_point

    def slow(*arguments: Any) -> Any:
        if next(calls) == 0:
            drawing.set()
            assert is_over.wait(120)
        return free_point(*arguments)

    monkeypatch.setattr(LocalSampler, "free_point", slow)
    thread = threading.Thread(target=pair[0].loop.run_trial, daemon=True)
    thread.start()
    assert drawing.wait(60)
    number = pair[1].loop.run_trial()
    is_over.set()
    thread.join(60)
    assert number is not None
    ended = t.finished(pair[1].store.study)[-2:]
    assert {trial.number for trial in ended} == {number - 1, number}, "the other one began before"
    assert ended[0].params != ended[1].params


def test_a_trial_is_asked_for_ahead_and_taken_by_whoever_comes(pair: tuple[Session, Session]) -> None:
    one, two = pair
    begun = two.loop._begin() or pytest.fail("nothing to ask")
    asking_takes(one, 5.0, 60.0)
    one.loop.run_trial()
    (ahead,) = aside(one)
    assert t.RECIPE in ahead.user_attrs
    assert ahead.params != begun.trial.params
    taken = two.loop._begin() or pytest.fail("nothing to ask")
    assert taken.trial.number == ahead.number
    assert taken.recipe == t.recipe_of(ahead)
    assert aside(one) == []


def test_a_trial_ahead_outlives_its_worker_and_the_end_of_the_search(
    pair: tuple[Session, Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = pair
    two.loop._begin()
    asking_takes(one, 5.0, 60.0)
    one.loop.run_trial()
    (ahead,) = aside(one)
    assert not Leases(one.store.study, Workers(Path("nowhere")), "later.3.3").is_lost(ahead)
    monkeypatch.setattr(Loop, "ended", "the target is reached")
    assert two.loop.run_trial() == ahead.number
    assert two.loop.run_trial() is None


def test_nothing_is_asked_for_ahead_where_it_does_not_pay(pair: tuple[Session, Session]) -> None:
    one, two = pair
    asking_takes(one, 5.0, 60.0)
    one.loop.run_trial()
    assert aside(one) == [], "a run with one worker depends on no clock"
    two.loop._begin()
    asking_takes(one, 0.5, 60.0)
    one.loop.run_trial()
    assert aside(one) == []


def test_workers_keep_busy_while_points_take_long(pair: tuple[Session, Session]) -> None:
    """By a simulated clock: 64 workers, trials of a minute, and points that take three seconds."""
    drawing = pair[0].loop._drawing
    asking_takes(pair[0], 3.0, 60.0)
    running = [optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs={}) for _ in range(64)]
    ahead = optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs={t.LEASE: {t.AHEAD: True}})
    wanted = 0
    with pytest.MonkeyPatch.context() as patch:
        for wanted in range(20):
            now = [*running, *[ahead] * wanted]
            patch.setattr(t, "running", lambda _, now=now: now)
            if not drawing.pays_ahead:
                break
    assert busy_share(64, 3.0, wanted) > 0.99
    assert busy_share(64, 3.0, 0) < 0.96, "where each worker draws its own"


def busy_share(workers: int, asking: float, most_ahead: int) -> float:
    """The share of their time that workers score, where one draws ahead while it scores unless so many are ahead."""
    rng, now = random.Random(0), 0.0
    free, ready, waited, scored = [rng.uniform(0, 60) for _ in range(workers)], [-1.0] * most_ahead, 0.0, 0.0
    for _ in range(4000):
        now = min(free)
        place = free.index(now)
        wait = asking
        usable = [time for time in ready if time <= now]
        if usable:
            ready.remove(usable[0])
            wait = 0.0
        if len(ready) < most_ahead:
            ready.append(now + wait + asking)
        seconds = rng.lognormvariate(0, 0.5) * 53
        free[place] = now + wait + seconds
        waited, scored = waited + wait, scored + seconds
    return scored / (scored + waited)


def test_every_line_of_the_journal_is_read_once(local: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a trial costs the same after any number of trials."""
    reads, checked = [0], ChainedJournal._checked

    def counted(self: ChainedJournal, line: bytes) -> dict[str, Any]:
        reads[0] += 1
        return checked(self, line)

    monkeypatch.setattr(ChainedJournal, "_checked", counted)
    folder = RunFolder(tmp_path / "small")
    with folder.joined():
        session = session_of(local, tmp_path, folder.worker)
        for _ in range(8):
            session.loop.run_trial()
    journal = tmp_path / "small" / "study.log"
    assert reads[0] == len(journal.read_bytes().splitlines())
