"""Runs whose study a PostgreSQL server keeps, through kills and the server's own restarts: the journal's trials."""

import random
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from unittest.mock import Mock

import psycopg
import pytest

from mergesearch.errors import UserError
from mergesearch.evaluators.tasks.bits_per_byte import BitsPerByte
from mergesearch.search.study import database

from ..helpers import Data, at_call, go
from ..postgresql import Server
from ..processes import STOPPED, assert_same, assert_whole, started, until_scored

pytestmark = pytest.mark.slow


@pytest.fixture
def undisturbed(config: Data, tmp_path: Path) -> Path:
    """The folder of the same run on its journal."""
    go(config, tmp_path / "journal")
    return tmp_path / "journal" / "small"


@pytest.fixture
def kept(config: Data, undisturbed: Path, server: Server) -> Data:
    """The config of that run, with the server as its storage."""
    assert undisturbed.is_dir()
    config["search"]["storage"] = server.url
    return config


def test_from_the_command_line(config_file: Path, server: Server, tmp_path: Path, undisturbed: Path) -> None:
    command = [sys.executable, "-m", "mergesearch", "run", config_file, "--storage", server.url, "--results", tmp_path]
    subprocess.run(command, check=True)
    assert_same(undisturbed, tmp_path / "small")
    assert not (tmp_path / "small" / "study.log").exists()


def test_killed_and_gone_on_with(kept: Data, tmp_path: Path, undisturbed: Path) -> None:
    dice = random.Random(0)
    for scored in range(1, 17, 3):
        process = started(kept, tmp_path)
        until_scored(tmp_path / "small", scored)
        time.sleep(dice.uniform(0, 0.2))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    go(kept, tmp_path)
    assert_same(undisturbed, tmp_path / "small")


def test_a_server_without_a_connection_left_is_said(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "PAUSES", (0.0, 0.1))
    address = server.url.replace("+psycopg", "")
    with ExitStack() as taken:
        with suppress(psycopg.OperationalError):
            for _ in range(1000):
                taken.enter_context(psycopg.connect(address))
        with pytest.raises(UserError, match="too many clients"):
            database.open_database(server.url)
    database.open_database(server.url)


def test_the_server_restarts_while_candidates_are_scored(
    kept: Data, server: Server, tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restart = Mock(side_effect=server.restart)
    for call in (1, 5, 10, 15, 20):
        monkeypatch.setattr(BitsPerByte, "score", at_call(call, restart, BitsPerByte.score))
    go(kept, tmp_path)
    assert restart.call_count == 5
    assert_same(undisturbed, tmp_path / "small")


def test_a_server_that_is_down_stops_the_run_which_goes_on_later(
    kept: Data, server: Server, tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "PAUSES", (0.0, 0.1, 0.1))
    for call in (3, 9):
        with monkeypatch.context() as patch:
            patch.setattr(BitsPerByte, "score", at_call(call, server.stop, BitsPerByte.score))
            with pytest.raises(UserError, match=r"small: the database fails \(.*the same command goes on .* answers"):
                go(kept, tmp_path)
        with pytest.raises(UserError, match="cannot open 'postgresql"):
            go(kept, tmp_path)
        server.start()
    go(kept, tmp_path)
    assert_same(undisturbed, tmp_path / "small")


@pytest.mark.parametrize("seed", range(3))
def test_two_processes_while_the_server_restarts_at_random_instants(
    kept: Data, server: Server, tmp_path: Path, seed: int
) -> None:
    """Those that are killed, or that a restart stopped with a message, are started again."""
    dice, codes = random.Random(seed), set()
    processes = [started(kept, tmp_path) for _ in range(2)]
    for number in range(8):
        time.sleep(dice.uniform(0.2, 2.0))
        if number % 2:
            server.restart()
        else:
            victim = dice.choice(processes)
            victim.kill()
            victim.join()
        codes |= {process.exitcode for process in processes}
        processes = [process if process.is_alive() else started(kept, tmp_path) for process in processes]
    for process in processes:
        process.join(300)
        codes.add(process.exitcode)
    go(kept, tmp_path)
    assert_whole(tmp_path / "small", 17)
    assert codes <= {0, None, -signal.SIGKILL, STOPPED}
