"""Several processes on one run, leases, and what is left when processes are killed or the disk is full."""

import errno
import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import Trial, TrialState
from pyarrow import parquet

from mergesearch import files
from mergesearch.errors import UserError
from mergesearch.foreign import Terminated
from mergesearch.merge_ops.engine.engine import Engine
from mergesearch.search.candidates.plan import open_plan
from mergesearch.search.config import Config
from mergesearch.search.optimize.callbacks import Watcher
from mergesearch.search.optimize.loop import Begun
from mergesearch.search.run import run
from mergesearch.search.samplers import SAMPLERS
from mergesearch.search.session import Session
from mergesearch.search.study import leases
from mergesearch.search.study import trials as t
from mergesearch.search.study.journal import ChainedJournal, noted_together
from mergesearch.search.study.run_folder import LOOKS, RunFolder
from mergesearch.search.study.workers import Workers

from ..helpers import Data, Killed, go, session_of, study_of
from ..processes import assert_same, assert_whole, started, until_scored


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Data], Path]:
    """The folder of a run of a config that nothing disturbed."""

    def ran(config: Data) -> Path:
        results = tmp_path_factory.mktemp("whole")
        go(config, results)
        return results / "small"

    return ran


# Kills in the midst of operations


class Fuse:
    """Ends the process's work in the midst of one of its coming operations on the storage or on files."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = 0
        for owner, name in ((ChainedJournal, "append_logs"), (files, "_replace"), (parquet, "write_table")):
            monkeypatch.setattr(owner, name, self.burning(getattr(owner, name), name))

    def burning(self, operation: Callable[..., Any], name: str) -> Callable[..., Any]:
        def burnt(*arguments: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                self.half_done(name, *arguments)
                raise Killed
            return operation(*arguments, **options)

        return burnt

    def half_done(self, name: str, *arguments: Any) -> None:
        if name == "append_logs":
            with Path(arguments[0]._file).open("ab") as journal:
                journal.write(b'{"op_code": 8, "worker_')
        elif name == "write_table":
            Path(arguments[1]).write_bytes(b"PAR1 half")


def kill_again_and_again(config: Data, results: Path, fuse: Fuse, kills: int, rng: random.Random) -> int:
    """Runs and kills until the run has ended or has been killed so often; how often it was."""
    for count in range(kills):
        fuse.left = rng.randrange(1, 60)
        try:
            go(config, results)
        except Killed:
            continue
        finally:
            fuse.left = 0
        return count
    go(config, results)
    return kills


def test_killed_in_the_midst_of_operations(
    config: Data, tmp_path: Path, whole: Callable[[Data], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = whole(config)
    killed = kill_again_and_again(config, tmp_path, Fuse(monkeypatch), 8, random.Random(0))
    assert killed == 8
    assert_same(undisturbed, tmp_path / "small")


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_killed_at_two_hundred_instants(
    config: Data, tmp_path: Path, whole: Callable[[Data], Path], monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    config["search"]["sampler"] = sampler
    undisturbed, fuse, rng, kills = whole(config), Fuse(monkeypatch), random.Random(sampler), 0
    for number in range(100):
        if kills >= 100:
            break
        kills += kill_again_and_again(config, tmp_path / str(number), fuse, 100 - kills, rng)
        assert_same(undisturbed, tmp_path / str(number) / "small")
    assert kills >= 100


# A full disk


def full_at(call: int, operation: Callable[..., Any]) -> Callable[..., Any]:
    calls = iter(range(1, 10**6))

    def limited(*arguments: Any, **options: Any) -> Any:
        if next(calls) >= call:
            raise OSError(errno.ENOSPC, "No space left on device")
        return operation(*arguments, **options)

    return limited


@pytest.mark.parametrize(
    ("place", "call"),
    [
        ((parquet, "write_table"), 12),
        ((ChainedJournal, "append_logs"), 130),
        ((RunFolder, "write_json"), 2),
        ((Engine, "write"), 1),
        ((files, "_replace"), 1),
    ],
)
def test_a_full_disk_stops_the_run_which_goes_on_later(
    config: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: tuple[Any, str], call: int
) -> None:
    config["search"]["trials"] = 14
    with monkeypatch.context() as patch:
        patch.setattr(*place, full_at(call, getattr(*place)))
        with pytest.raises(UserError, match=r"small: the disk is full .*the same command goes on"):
            go(config, tmp_path)
    verdict = go(config, tmp_path)
    states = Counter(trial.state for trial in study_of(tmp_path / "small").get_trials())
    assert states[TrialState.COMPLETE] == verdict.trials == 14
    assert states[TrialState.FAIL] <= 1, "no candidate is to blame for the disk"
    assert not list((tmp_path / "small").rglob(".*"))


# Leases


ON_POSTGRESQL = pytest.param("postgresql", marks=pytest.mark.slow)


def stored(config: Data, request: pytest.FixtureRequest, tmp_path: Path) -> Data:
    """The config with the storage that the fixture's parameter names."""
    if request.param == "sqlite":
        config["search"]["storage"] = f"sqlite:///{tmp_path / 'study.db'}"
    elif request.param == "postgresql":
        config["search"]["storage"] = request.getfixturevalue("server").url
    return config


@pytest.fixture(params=["journal", "sqlite", ON_POSTGRESQL])
def begun(request: pytest.FixtureRequest, config: Data, tmp_path: Path) -> Data:
    """A run with one sampled trial, on each storage."""
    stored(config, request, tmp_path)["search"]["trials"] = 13
    go(config, tmp_path)
    return config


def with_trials(config: Data, trials: int = 99) -> Data:
    return {**config, "search": {**config["search"], "trials": trials}}


def begin(session: Session) -> Begun:
    """Begins a trial and leaves it running."""
    return session.loop._begin() or pytest.fail("nothing to ask")


def retries(session: Session) -> list[tuple[int, dict[str, Any]]]:
    trials = session.store.study.get_trials()
    return [(trial.user_attrs[t.RETRY_OF], trial.params) for trial in trials if t.RETRY_OF in trial.user_attrs]


def test_a_dead_workers_trial_is_asked_for_again_once(begun: Data, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "small")
    with folder.joined():
        lost = begin(session_of(with_trials(begun), tmp_path, folder.worker)).trial
    sessions = [session_of(with_trials(begun), tmp_path, name) for name in ("one.1.1", "two.2.2")]
    for session in sessions:
        assert session.loop.run_trial() is not None
    assert retries(sessions[0]) == [(lost.number, lost.params)]
    assert t.is_interrupted(sessions[0].store.study.get_trials()[lost.number])


def test_a_living_workers_trial_is_left_alone_until_its_lease_runs_out(
    begun: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "small")
    with folder.joined():
        owner, other = (session_of(with_trials(begun), tmp_path, name) for name in (folder.worker, "other.1.1"))
        owned = begin(owner)
        trial, recipe = owned.trial, owned.recipe or pytest.fail("no recipe")
        other.loop.run_trial()
        assert other.store.study.get_trials()[trial.number].state == TrialState.RUNNING
        now = time.time()
        monkeypatch.setattr(Workers, "now", lambda _: now + leases.SECONDS + 1)
        other.loop.run_trial()
        assert retries(other) == [(trial.number, trial.params)]
        before = len(t.finished(owner.store.study))
        owner.loop._work_on(trial, recipe, False)
        assert len(t.finished(owner.store.study)) == before, "what came too late is not counted twice"


def test_workers_come_and_go_while_others_look(tmp_path: Path) -> None:
    workers = Workers(tmp_path)

    def come_and_go() -> None:
        for _ in range(2000):
            with workers.joined():
                pass

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(come_and_go)
        while not coming.done():
            workers.is_dead(next((file.name for file in tmp_path.iterdir()), "none.1.1"))
        coming.result()


def test_the_lease_is_renewed_while_scoring(begun: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEWED", 0.02)
    session = session_of(with_trials(begun), tmp_path, "me.1.1")
    trial = begin(session).trial

    def until() -> float:
        return float(session.store.study.get_trials()[trial.number].user_attrs[t.LEASE]["until"])

    first = until()
    with session.loop._leases.renewed(trial):
        for _ in range(200):
            if until() > first:
                break
            time.sleep(0.02)
    assert until() > first


def test_renewals_and_notes_do_not_wait_for_each_other(
    begun: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would wait for a lock that the other has, if they took the journal's and the storage's in another order."""
    monkeypatch.setattr(leases, "RENEWED", 0.0)
    session = session_of(with_trials(begun), tmp_path, "me.1.1")
    study = session.store.study
    trial = begin(session).trial

    def note() -> None:
        with session.loop._leases.renewed(trial):
            for number in range(300):
                with noted_together(study):
                    trial.set_user_attr("note", number)
                    trial.set_user_attr("again", number)

    noting = threading.Thread(target=note, daemon=True)
    noting.start()
    noting.join(60)
    assert not noting.is_alive()
    assert study.get_trials()[trial.number].user_attrs["again"] == 299


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_ask_for_different_points_while_others_are_at_theirs(
    config: Data, tmp_path: Path, sampler: str
) -> None:
    config["search"] |= {"sampler": sampler, "trials": 13}
    go(config, tmp_path)
    folder = RunFolder(tmp_path / "small")
    with folder.joined():
        session = session_of(with_trials(config), tmp_path, folder.worker)
        trials = [begin(session).trial for _ in range(4)]
        assert len({str(trial.params) for trial in trials}) == 4
        slots = [str(trial.user_attrs[t.SLOT]) for trial in trials if t.SLOT in trial.user_attrs]
        assert len(set(slots)) == len(slots)


def test_baselines_in_work_are_not_asked_again(config: Data, tmp_path: Path) -> None:
    """What depends on them waits; the methods' usual settings do not."""
    folder = RunFolder(tmp_path / "small")
    with folder.joined():
        loop = session_of(with_trials(config, 17), tmp_path, folder.worker).loop
        asked: Iterator[Any] = iter(loop._begin, None)
        trials = [begun.trial for begun in asked]
        names = [trial.user_attrs[t.NAME] for trial in trials]
    assert names[:7] == ["base", "one", "two", "uniform soup", "task_arithmetic", "ties", "dare_ties"]
    assert [trial.user_attrs[t.KIND] for trial in trials] == [t.BASELINE] * 10


# Several processes


@pytest.fixture(params=["journal", ON_POSTGRESQL])
def shared(request: pytest.FixtureRequest, config: Data, tmp_path: Path) -> Data:
    """A config for several processes, on each storage."""
    return stored(config, request, tmp_path)


def test_two_processes_share_a_run(shared: Data, tmp_path: Path) -> None:
    processes = [started(shared, tmp_path) for _ in range(2)]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    folder = tmp_path / "small"
    assert_whole(folder, 17)
    assert len(json.loads((folder / LOOKS).read_text())) == 1, "one of them concludes"
    workers = Counter(trial.user_attrs[t.LEASE]["worker"] for trial in t.finished(study_of(folder)))
    assert len(workers) == 2
    assert min(workers.values()) >= 3


def test_one_of_two_processes_is_killed(shared: Data, tmp_path: Path) -> None:
    victim, other = started(shared, tmp_path, 0.3), started(shared, tmp_path)
    until_scored(tmp_path / "small", 1)
    victim.kill()
    other.join(120)
    assert other.exitcode == 0
    assert_whole(tmp_path / "small", 17)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_two_processes_killed_at_random_instants(shared: Data, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    processes = [started(shared, tmp_path) for _ in range(2)]
    for _ in range(12):
        time.sleep(rng.uniform(0.2, 2.0))
        place = rng.randrange(2)
        processes[place].kill()
        processes[place].join()
        processes[place] = started(shared, tmp_path)
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, 0]
    assert_whole(tmp_path / "small", 17)


def test_a_second_worker_says_that_it_joins(config: Data, tmp_path: Path) -> None:
    config["search"]["trials"] = 9
    stages: list[str] = []
    folder = RunFolder(tmp_path / "small")
    with folder.joined() as others:
        assert others == []
        run(open_plan(Config.model_validate(config), "config"), tmp_path, Watcher(stage=stages.append))
    assert f"joining 1 other worker: {folder.worker}" in stages
    assert folder.worker.split(".")[-2] == str(os.getpid())


def test_workers_must_share_the_results_folder(config: Data, tmp_path: Path) -> None:
    config["search"] |= {"storage": f"sqlite:///{tmp_path / 'study.db'}", "trials": 9}
    go(config, tmp_path / "here")
    with pytest.raises(UserError, match=r"must share the results folder.*need different names"):
        go(config, tmp_path / "there")


def test_the_trial_of_a_worker_that_is_told_to_end_is_free_at_once(
    config: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another host nobody could know that the worker is dead before its lease has run out."""
    session = session_of(config, tmp_path, "elsewhere.1.a")

    def told_to_end(*_: Any) -> None:
        raise Terminated(143)

    monkeypatch.setattr(session.scorer, "score", told_to_end)
    with pytest.raises(Terminated):
        session.loop.run_trial()
    study, folder = session.store.study, session.store.folder
    (trial,) = t.running(study)
    assert leases.Leases(study, folder.workers, "here.2.b").is_lost(trial)


def test_a_trial_that_another_worker_was_given_is_not_given_back(
    config: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = session_of(config, tmp_path, "elsewhere.1.a")
    study, folder = session.store.study, session.store.folder
    other = leases.Leases(study, folder.workers, "elsewhere.2.b")

    def told_to_end(*_: Any) -> None:
        trial = Trial(study, t.running(study)[0]._trial_id)
        other.take(trial)
        raise Terminated(143)

    monkeypatch.setattr(session.scorer, "score", told_to_end)
    with pytest.raises(Terminated):
        session.loop.run_trial()
    (trial,) = t.running(study)
    assert trial.user_attrs[t.LEASE]["worker"] == "elsewhere.2.b"
    assert not other.is_lost(trial)
