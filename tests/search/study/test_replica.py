"""Workers that do not have the run's folder: a coordinator, its replicas, and what is left when either is killed."""

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mergesearch import files
from mergesearch.errors import UserError
from mergesearch.search.study import trials as t
from mergesearch.search.study.coordinator import Coordinator
from mergesearch.search.study.exchange import SILENCE, Exchange, LostError, silence
from mergesearch.search.study.replica import Replica
from mergesearch.search.study.run_folder import LOOKS, RunFolder
from mergesearch.search.study.stop import ask_to_stop

from ..coordinated import Caller, serving, started_elsewhere
from ..helpers import Data, Killed, kill, study_of
from ..processes import assert_whole, started, until_scored


class Place:
    """The folder of a run, and the socket of its coordinator."""

    def __init__(self, folder: Path) -> None:
        self.results, self.address = folder / "results", folder / "socket"
        self.run, self._folder = self.results / "small", folder
        self.server: Any = None
        self._count = 0

    def serve(self) -> None:
        self.server = serving(self.run, self.address)

    def worker(self, config: Data, pause: float = 0.05) -> Any:
        self._count += 1
        return started_elsewhere(config, self.address, self._folder / f"host{self._count}", pause)

    def lost(self, count: int) -> None:
        """Tells the coordinator that a worker is dead."""
        Caller(self.address).lost(str(self._folder / f"host{count}" / "small"))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    place.serve()
    yield place
    place.server.kill()
    place.server.join()


def ended(*processes: Any) -> None:
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * len(processes)


def assert_one_look(folder: Path) -> None:
    assert len(json.loads((folder / LOOKS).read_text())) == 1


def test_workers_with_replicas_and_one_at_the_folder_share_a_run(config: Data, place: Place) -> None:
    ended(place.worker(config), place.worker(config), started(config, place.results))
    assert_whole(place.run, 17)
    assert_one_look(place.run)
    workers = Counter(trial.user_attrs[t.LEASE]["worker"] for trial in t.finished(study_of(place.run)))
    assert len(workers) == 3
    assert (place.run / "run.log").read_text().count("the search has ended") == 3


def test_a_killed_worker_loses_nothing(config: Data, place: Place) -> None:
    victim, other = place.worker(config, 0.3), place.worker(config)
    until_scored(place.run, 1)
    victim.kill()
    place.lost(1)
    ended(other)
    assert_whole(place.run, 17)
    assert_one_look(place.run)


def test_a_killed_coordinator_loses_nothing(config: Data, place: Place) -> None:
    workers = [place.worker(config), place.worker(config)]
    for count in (1, 6, 12):
        until_scored(place.run, count)
        place.server.kill()
        place.server.join()
        place.serve()
    ended(*workers)
    assert_whole(place.run, 17)
    assert_one_look(place.run)
    assert not any(t.is_interrupted(trial) for trial in study_of(place.run).get_trials()), "no worker was given up"


def test_workers_are_asked_to_stop(config: Data, place: Place) -> None:
    config["search"]["trials"] = 500
    worker = place.worker(config)
    until_scored(place.run, 1)
    (name,) = ask_to_stop(place.run)
    worker.join(120)
    assert worker.exitcode == 1
    assert f"{worker.pid}." in name
    assert not RunFolder(place.run).workers.living()


# One worker's replica, in this process


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    coordinator = Coordinator(tmp_path / "there" / "small", "one")
    yield coordinator
    coordinator.close()


def replica(tmp_path: Path, exchange: Exchange, name: str = "here") -> Replica:
    return Replica(tmp_path / name / "small", exchange, end=lambda: None)


def test_files_go_and_come(coordinator: Coordinator, tmp_path: Path) -> None:
    there = tmp_path / "there" / "small"
    one, two = replica(tmp_path, coordinator), replica(tmp_path, coordinator, "other")
    with one.joined(), two.joined() as others:
        assert others == [one.worker]
        with one.locked():
            (one.path / "best.yml").write_text("best")
            (one.path / "front").mkdir()
            (one.path / "front" / "1.yml").write_text("one")
            assert not (there / "best.yml").exists()
            one.write_json("test_looks.json", [])
            assert (there / "best.yml").read_text() == "best", "what was written before is there before"
        assert (there / "front" / "1.yml").read_text() == "one"
        with two.locked():
            assert (two.path / "front" / "1.yml").read_text() == "one"
            (two.path / "front" / "1.yml").unlink()
            (two.path / "front" / "2.yml").write_text("two")
            (two.path / "best.yml").unlink()
        with one.locked():
            assert [file.name for file in (one.path / "front").iterdir()] == ["2.yml"]
            assert not (one.path / "best.yml").exists()
    assert [file.name for file in (there / "front").iterdir()] == ["2.yml"]
    assert not list(there.rglob(".*"))


def test_of_large_weights_only_the_header_comes(
    coordinator: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    monkeypatch.setattr("mergesearch.search.study.transfer.LARGE", 1 << 20)
    monkeypatch.setattr("mergesearch.search.study.replica.CHUNK", 1 << 16)
    monkeypatch.setattr("mergesearch.search.study.transfer.CHUNK", 1 << 16)
    one, two = replica(tmp_path, coordinator), replica(tmp_path, coordinator, "other")
    with one.joined(), two.joined():
        with one.locked():
            (one.path / "model").mkdir()
            save_file({"weight": torch.ones(1 << 19)}, one.path / "model" / "model.safetensors")
        file = two.path / "model" / "model.safetensors"
        with two.locked():
            with safe_open(file, "pt") as weights:  # type: ignore[no-untyped-call]
                assert weights.get_slice("weight").get_shape() == [1 << 19]
            assert file.stat().st_blocks * 512 < 1 << 20
        there = tmp_path / "there" / "small" / "model" / "model.safetensors"
        assert there.read_bytes() == (one.path / "model" / "model.safetensors").read_bytes()
        with pytest.raises(RuntimeError, match="only its header is here"), two.locked():
            (two.path / "model" / "README.md").write_text("a card")


def test_trials_have_the_time_of_the_coordinator(coordinator: Coordinator) -> None:
    assert coordinator.join("elsewhere.1.a", "")
    ahead = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    kind = {"op_code": 4, "worker_id": "one"}
    entries = [kind | each for each in ({"datetime_start": ahead}, {"datetime_complete": ahead}, {"value": 1})]
    older = kind | {"datetime_start": "2030-01-01T00:00:00+00:00", "datetime_complete": "2030-01-01T00:01:00+00:00"}
    found = coordinator.append("elsewhere.1.a", [*entries, older], "request", 0)
    assert found[0]["datetime_start"] < ahead
    assert found[1]["datetime_complete"] < ahead
    assert not {"datetime_start", "datetime_complete"} & found[2].keys()
    assert older.items() <= found[3].items()


@pytest.mark.parametrize("text", ["a minute", "-1", "inf", "nan"])
def test_how_long_a_worker_may_be_silent(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert silence() == 60
    monkeypatch.setenv(SILENCE, "90.5")
    assert silence() == 90.5
    monkeypatch.setenv(SILENCE, text)
    with pytest.raises(UserError, match=f"{SILENCE}: found '{text}', expected a number of seconds"):
        silence()


def test_a_session_refuses_the_workers_of_another(tmp_path: Path) -> None:
    there = tmp_path / "there" / "small"
    first = Coordinator(there, "one")
    assert first.join("elsewhere.1.a", "")
    assert first.take("elsewhere.1.a") is None
    first._own.close()
    first._lock.close()
    for worker in first._workers.values():
        worker.files.pop_all()
    second = Coordinator(there, "two")
    assert second.join("elsewhere.2.b", "")
    assert second.take("elsewhere.2.b") is None
    assert second.is_dead("elsewhere.2.b", "elsewhere.1.a")
    with pytest.raises(LostError):
        second.put("elsewhere.1.a", "best.yml", 0, b"x")
    second.close()


@pytest.mark.slow
def test_a_paused_worker_is_given_up_and_ends(config: Data, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process stands still for longer than the coordinator waits; another takes its trial."""
    monkeypatch.setenv(SILENCE, "3")
    place.server.kill()
    place.server.join()
    place.serve()
    paused, other = place.worker(config, 0.1), place.worker(config, 0.1)
    until_scored(place.run, 2)
    os.kill(paused.pid, signal.SIGSTOP)
    other.join(120)
    os.kill(paused.pid, signal.SIGCONT)
    paused.join(120)
    assert other.exitcode == 0
    assert paused.exitcode == 1
    assert_whole(place.run, 17)
    assert_one_look(place.run)


def test_a_kill_while_a_file_is_put_in_place_loses_nothing(
    coordinator: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "elsewhere.1.a"
    assert coordinator.join(name, "")
    coordinator.put(name, "best.yml", 0, b"best")
    with monkeypatch.context() as patch:
        patch.setattr(files, "_replace", lambda *_: kill())
        with pytest.raises(Killed):
            coordinator.commit(name, "best.yml", durable=True)
    assert list(coordinator.commit(name, "best.yml", durable=True)) == ["best.yml"]
    assert (tmp_path / "there" / "small" / "best.yml").read_bytes() == b"best"
