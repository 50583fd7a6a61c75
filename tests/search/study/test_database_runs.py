"""Runs of hosts that share a database and an artifact store alone, and what is left when something fails."""

import copy
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any
from unittest import mock

import optuna
import pytest
from click.testing import CliRunner

from mergesearch.search.cli import main
from mergesearch.search.study import trials as t
from mergesearch.search.study.exchange import SILENCE
from mergesearch.search.study.run_folder import LOOKS, RunFolder
from mergesearch.search.study.stop import ask_to_stop

from ..helpers import Data, at_call, study_of
from ..postgresql import Server
from ..processes import assert_whole, started, until_scored

UPDATABLE = optuna.storages.RDBStorage.check_trial_is_updatable
pytestmark = pytest.mark.slow


class Hosts:
    """Hosts with a folder of results each."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0

    def results(self, number: int) -> Path:
        return self._folder / f"host{number}"

    def run(self, number: int) -> Path:
        return self.results(number) / "small"

    def worker(self, config: Data, pause: float = 0.05) -> Any:
        """A process on the next host."""
        self._count += 1
        return started(config, self.results(self._count), pause)


@pytest.fixture
def hosts(tmp_path: Path) -> Hosts:
    return Hosts(tmp_path)


@pytest.fixture
def kept(config: Data, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Data:
    """The config of a run; a worker that is silent for four seconds is dead."""
    monkeypatch.setenv(SILENCE, "4")
    config["search"] |= {"storage": server.url, "artifacts": str(tmp_path / "artifacts")}
    return config


def ended(*processes: Any) -> None:
    for process in processes:
        process.join(180)
    assert [process.exitcode for process in processes] == [0] * len(processes)


def assert_whole_run(folder: Path, trials: int = 17) -> None:
    assert_whole(folder, trials)
    assert len(json.loads((folder / LOOKS).read_text())) == 1
    assert not RunFolder(folder).workers.living()


def test_three_hosts(kept: Data, hosts: Hosts, tmp_path: Path, server: Server) -> None:
    """The third one joins by the run's name."""
    kept["search"]["trials"] = 40
    workers = [hosts.worker(kept, 0.5), hosts.worker(kept, 0.5)]
    until_scored(hosts.run(1), 2)
    options = ["--storage", server.url, "--artifacts", str(tmp_path / "artifacts"), "--results", str(hosts.results(3))]
    command = [sys.executable, "-m", "mergesearch", "worker", "small", *options]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    ended(*workers)
    for host in (1, 2):
        assert_whole_run(hosts.run(host), 40)
    assert (hosts.run(3) / "report.html").read_bytes() == (hosts.run(1) / "report.html").read_bytes()
    assert not (hosts.run(3) / "model").exists()
    names = Counter(trial.user_attrs[t.LEASE]["worker"] for trial in t.finished(study_of(hosts.run(1))))
    assert len(names) == 3
    assert (hosts.run(1) / "run.log").read_text().count("the search has ended") == 3


def test_a_killed_worker_loses_nothing(kept: Data, hosts: Hosts) -> None:
    victim, other = hosts.worker(kept, 0.3), hosts.worker(kept)
    until_scored(hosts.run(2), 2)
    victim.kill()
    ended(other)
    assert_whole_run(hosts.run(2))


def test_the_database_restarts_at_random_instants(kept: Data, hosts: Hosts, server: Server) -> None:
    dice, workers = random.Random(0), [hosts.worker(kept, 0.1), hosts.worker(kept, 0.1)]
    until_scored(hosts.run(1), 1)
    for _ in range(3):
        time.sleep(dice.uniform(0.2, 1.5))
        server.restart()
    ended(*workers)
    for host in (1, 2):
        assert_whole_run(hosts.run(host))


def pause(process: Any, seconds: float) -> None:
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(process.pid, signal.SIGCONT)


def test_a_paused_worker_joins_again(kept: Data, hosts: Hosts) -> None:
    kept["search"]["trials"] = 60
    workers = [hosts.worker(kept, 0.3), hosts.worker(kept, 0.3)]
    until_scored(hosts.run(1), 2)
    pause(workers[0], 7)
    ended(*workers)
    assert_whole_run(hosts.run(1), 60)
    assert "others have taken its trial" in (hosts.run(1) / "run.log").read_text()


def test_a_worker_that_is_paused_while_it_has_the_lock(kept: Data, hosts: Hosts) -> None:
    """It holds rows of the database, too, for which others would wait."""
    kept["search"]["trials"] = 60

    def stop() -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    with mock.patch.object(optuna.storages.RDBStorage, "check_trial_is_updatable", at_call(9, stop, UPDATABLE)):
        paused = hosts.worker(kept, 0.1)
    other = hosts.worker(kept, 0.3)
    until_stopped(paused.pid)
    time.sleep(6)
    os.kill(paused.pid, signal.SIGCONT)
    ended(paused, other)
    assert_whole_run(hosts.run(2), 60)


def until_stopped(process: int) -> None:
    while Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.05)


class HourAhead(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> "HourAhead":
        return super().now(tz) + timedelta(hours=1)


def test_the_clock_of_a_host_is_an_hour_ahead(kept: Data, hosts: Hosts) -> None:
    clock = time.time

    def ahead_by_an_hour() -> float:
        return clock() + 3600

    with (
        mock.patch.object(time, "time", ahead_by_an_hour),
        mock.patch("optuna.storages._rdb.storage.datetime", HourAhead),
    ):
        ahead = hosts.worker(kept, 0.2)
    other = hosts.worker(kept, 0.2)
    ended(ahead, other)
    assert_whole_run(hosts.run(1))
    trials = study_of(hosts.run(1)).get_trials()
    assert len({trial.user_attrs[t.LEASE]["worker"] for trial in trials}) == 2
    assert not any(t.is_interrupted(trial) for trial in trials)
    times = [trial.datetime_complete for trial in trials if trial.datetime_complete]
    assert max(times) - min(times) < timedelta(minutes=30)


def test_a_run_is_stopped_from_the_folder_of_any_host(kept: Data, hosts: Hosts) -> None:
    kept["search"]["trials"] = 500
    workers = [hosts.worker(kept), hosts.worker(kept)]
    until_scored(hosts.run(1), 1)
    until_scored(hosts.run(2), 1)
    while len(ask_to_stop(hosts.run(2))) < 2:
        time.sleep(0.1)
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [1, 1]


def test_what_a_worker_lacks_is_told(kept: Data, server: Server, tmp_path: Path) -> None:
    data = copy.deepcopy(kept)
    data["recipe"]["base_model"] = "/no/such/model"
    study = optuna.create_study(study_name="small", storage=server.url)
    study.set_user_attr(t.CONFIG, data)
    options = ["--storage", server.url, "--artifacts", str(tmp_path / "artifacts"), "--results", str(tmp_path)]
    found = CliRunner().invoke(main, ["worker", "small", *options])
    assert found.exit_code == 2
    assert "/no/such/model" in found.output
    found = CliRunner().invoke(main, ["worker", "smal", *options])
    assert found.exit_code == 2
    assert "there is no run 'smal'" in found.output
    assert "did you mean 'small'" in found.output
