"""What holds of every ``Exchange``: the coordinator beside the run's folder, and a database with an artifact store."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from mergesearch.search.study import database_exchange
from mergesearch.search.study.artifacts import Artifacts
from mergesearch.search.study.coordinator import Coordinator
from mergesearch.search.study.database_exchange import NOW, DatabaseExchange
from mergesearch.search.study.exchange import Exchange, LostError, silence
from mergesearch.search.study.replica import Replica
from mergesearch.search.study.tables import WORKERS

from ..postgresql import Server

KINDS = ("coordinator", "database")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="mergesearch-") as folder:
        server = Server(Path(folder))
        server.start()
        yield server.url
        server.stop()


class Place:
    """Where a run is kept, for workers that come to it one after the other."""

    def __init__(self, kind: str, folder: Path, url: str) -> None:
        self._kind, self._folder, self._url, self.stack = kind, folder, url, ExitStack()
        if kind == "coordinator":
            self._coordinator = Coordinator(folder / "there" / "small", "one")
            self.stack.callback(self._coordinator.close)

    def exchange(self) -> Exchange:
        """One worker's way to the run."""
        if self._kind == "coordinator":
            return self._coordinator
        run = f"small-{self._folder.name}"
        exchange = DatabaseExchange(self._url, Artifacts(str(self._folder / "artifacts")), run)
        self.stack.callback(exchange.close)
        return exchange

    def worker(self, name: str) -> Replica:
        return Replica(self._folder / name / "small", self.exchange(), end=lambda: None)

    def silence(self, worker: Replica) -> None:
        """Lets a worker have been silent for too long."""
        long = silence() + 1
        exchange = worker._exchange
        if isinstance(exchange, DatabaseExchange):
            this = WORKERS.c.worker == worker.worker
            with exchange.engine.begin() as database:
                database.execute(update(WORKERS).where(this).values(seen=NOW - timedelta(seconds=long)))
        else:
            self._coordinator._workers[worker.worker].seen -= long


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(database_exchange, "UP", NOW - timedelta(days=1))
    url = request.getfixturevalue("url") if request.param == "database" else ""
    place = Place(request.param, tmp_path, url)
    with place.stack:
        yield place


def test_files_go_and_come(place: Place) -> None:
    one, two = place.worker("one"), place.worker("two")
    with one.joined(), two.joined() as others:
        assert others == [one.worker]
        with one.locked():
            (one.path / "best.yml").write_text("best")
            (one.path / "empty").touch()
            (one.path / "front").mkdir()
            (one.path / "front" / "1.yml").write_text("one")
        with two.locked():
            assert (two.path / "best.yml").read_text() == "best"
            assert (two.path / "empty").read_bytes() == b""
            assert (two.path / "front" / "1.yml").read_text() == "one"
            (two.path / "front" / "1.yml").unlink()
            (two.path / "front" / "2.yml").write_text("two")
            (two.path / "best.yml").unlink()
        with one.locked():
            assert [file.name for file in (one.path / "front").iterdir()] == ["2.yml"]
            assert not (one.path / "best.yml").exists()
    three = place.worker("three")
    with three.joined():
        assert [file.name for file in three.path.iterdir() if file.is_file()] == ["empty"]


def test_what_is_shared_is_there_before_the_lock_is_released(place: Place) -> None:
    one, exchange = place.worker("one"), place.exchange()
    with one.joined(), one.locked():
        (one.path / "best.yml").write_text("best")
        assert exchange.fetch(one.worker, "best.yml", 0, 9) is None
        one.write_json("test_looks.json", [])
        part = exchange.fetch(one.worker, "best.yml", 0, 9)
        assert part is not None
        assert part.data == b"best", "what was written before is there before"


def test_large_files_come_in_parts(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("replica", "transfer"):
        monkeypatch.setattr(f"mergesearch.search.study.{module}.CHUNK", 10)
    one, two, content = place.worker("one"), place.worker("two"), bytes(range(95))
    with one.joined(), two.joined():
        with one.locked():
            (one.path / "large").write_bytes(content)
        with two.locked():
            assert (two.path / "large").read_bytes() == content
            (two.path / "large").write_bytes(content[:35])
        with one.locked():
            assert (one.path / "large").read_bytes() == content[:35]
        part = place.exchange().fetch(one.worker, "large", 33, 100)
        assert part is not None
        assert (part.size, part.data) == (35, content[33:35])


def test_one_worker_at_a_time_has_the_lock(place: Place) -> None:
    one, two = place.worker("one"), place.worker("two")
    with one.joined(), two.joined():
        with one.locked():
            assert two._exchange.take(two.worker) == one.worker
            assert one._exchange.take(one.worker) is None, "who has it may ask again"
        with two.locked():
            assert one._exchange.take(one.worker) == two.worker


def test_claims_end_with_the_worker(place: Place) -> None:
    one, two = place.worker("one"), place.worker("two")
    with two.joined():
        with one.joined():
            assert one._exchange.claim(one.worker, "track")
            assert one._exchange.claim(one.worker, "track")
            assert not two._exchange.claim(two.worker, "track")
        assert two._exchange.claim(two.worker, "track")


def test_living_and_dead_workers(place: Place) -> None:
    one, two = place.worker("one"), place.worker("two")
    with two.joined():
        with one.joined():
            assert two.workers.living() == sorted([one.worker, two.worker])
            assert not two.workers.is_dead(one.worker)
        assert two.workers.living() == [two.worker]
        assert two.workers.is_dead(one.worker)


def be_silent_with_the_lock(place: Place, one: Replica, two: Replica) -> None:
    with one.locked():
        (one.path / "best.yml").write_text("of the dead")
        place.silence(one)
        with two.joined(), two.locked():
            assert two.workers.is_dead(one.worker)
            assert two.workers.living() == [two.worker]


def test_a_worker_that_is_silent_for_long_is_refused(place: Place) -> None:
    one, two, three = place.worker("one"), place.worker("two"), place.worker("three")
    with one.joined(), pytest.raises(LostError, match="was silent for more than"):
        be_silent_with_the_lock(place, one, two)
    with three.joined():
        assert not (three.path / "best.yml").exists()
        with pytest.raises(LostError):
            three._exchange.join(one.worker, "")


def test_time_is_not_that_of_the_host(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, now = place.worker("one"), time.time()
    with worker.joined():
        monkeypatch.setattr(time, "time", lambda: now + 3600)
        assert abs(worker.workers.now() - now) < 60


def test_names_stay_in_the_folder(place: Place) -> None:
    exchange = place.exchange()
    assert exchange.join("elsewhere.1.a", "")
    for name in ("../other", "/etc/passwd", "a/../../b", ""):
        with pytest.raises(ValueError, match="is no file of a run"):
            exchange.fetch("elsewhere.1.a", name, 0, 1)
        with pytest.raises(ValueError, match="is no file of a run"):
            exchange.put("elsewhere.1.a", name, 0, b"")
