"""Runs of hosts that share a database and an artifact store alone, and what is left when something fails."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mergesearch.search.study import trials as t
from mergesearch.search.study.run_folder import LOOKS, RunFolder

from ..helpers import Data, study_of
from ..postgresql import Server
from ..processes import assert_whole, started, until_scored

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
def kept(config: Data, server: Server, tmp_path: Path) -> Data:
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
