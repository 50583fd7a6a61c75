"""What holds of every ``Exchange``: the coordinator beside the run's folder, and a database with an artifact store."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import pytest
from optuna.study import Study
from optuna.trial import TrialState, create_trial
from sqlalchemy import update

from mergesearch.errors import UserError
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
        self._run = f"small-{folder.name}"
        if kind == "coordinator":
            self._coordinator = Coordinator(folder / "there" / "small", "one")
            self.stack.callback(self._coordinator.close)

    def exchange(self) -> Exchange:
        """One worker's way to the run."""
        if self._kind == "coordinator":
            return self._coordinator
        exchange = DatabaseExchange(self._url, Artifacts(str(self._folder / "artifacts")), self._run)
        self.stack.callback(exchange.close)
        return exchange

    def worker(self, name: str) -> Replica:
        exchange = self.exchange()
        storage = exchange.storage if isinstance(exchange, DatabaseExchange) else None
        return Replica(self._folder / name / self._run, exchange, end=lambda: None, storage=storage)

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


# The study in a database


class HourAhead(datetime):
    """The clock of a host that is an hour ahead."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> "HourAhead":
        return super().now(tz) + timedelta(hours=1)


@pytest.fixture
def at_database(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(database_exchange, "UP", NOW - timedelta(days=1))
    place = Place("database", tmp_path, url)
    with place.stack:
        yield place


def test_trials_begin_and_end_by_the_databases_clock(at_database: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optuna.storages._rdb.storage.datetime", HourAhead)
    worker = at_database.worker("one")
    with worker.joined():
        study = worker.open_study(None)
        study.tell(study.ask(), 1.0)
        study.add_trial(create_trial(state=TrialState.COMPLETE, value=2.0))
        for trial in study.get_trials():
            for at in (trial.datetime_start, trial.datetime_complete):
                assert at is not None
                assert abs(datetime.now() - at) < timedelta(minutes=1)


def tell_after_silence(place: Place, one: Replica, two: Replica) -> None:
    study = one.open_study(None)
    trial = study.ask()
    place.silence(one)
    with two.joined():
        study.tell(trial, 1.0)


def test_a_worker_that_is_taken_for_dead_cannot_tell(at_database: Place) -> None:
    one, two = at_database.worker("one"), at_database.worker("two")
    with one.joined(), pytest.raises(LostError):
        tell_after_silence(at_database, one, two)
    with two.joined():
        (trial,) = two.open_study(None).get_trials()
        assert (trial.state, trial.value) == (TrialState.RUNNING, None)


def test_who_lost_the_lock_cannot_change_anything(at_database: Place) -> None:
    """Its connection has ended, as by a restart of the database, and another has taken the lock."""
    one, two = at_database.worker("one"), at_database.worker("two")
    with two.joined(), one.joined():
        with one.locked():
            study = one.open_study(None)
            study.set_user_attr("before", 1)
        with pytest.raises(LostError):
            lose_the_lock(one, two, study)
        with two.locked():
            assert two.open_study(None).user_attrs == {"before": 1}
            assert not (two.path / "best.yml").exists()


def lose_the_lock(one: Replica, two: Replica, study: Study) -> None:
    exchange = one._exchange
    assert isinstance(exchange, DatabaseExchange)
    with one.locked():
        (one.path / "best.yml").write_text("best")
        assert exchange._holding is not None
        exchange._holding.close()
        with two.locked(), pytest.raises(LostError):
            study.set_user_attr("after", 1)


def test_who_lost_the_lock_goes_on_where_nobody_took_it(at_database: Place) -> None:
    one, two = at_database.worker("one"), at_database.worker("two")
    with two.joined(), one.joined():
        with one.locked():
            exchange = one._exchange
            assert isinstance(exchange, DatabaseExchange)
            assert exchange._holding is not None
            exchange._holding.close()
            (one.path / "best.yml").write_text("best")
        with two.locked():
            assert (two.path / "best.yml").read_text() == "best"


def test_a_piece_that_is_not_in_the_store_is_told(at_database: Place, tmp_path: Path) -> None:
    one, two = at_database.worker("one"), at_database.worker("two")
    with one.joined(), two.joined():
        with one.locked():
            (one.path / "best.yml").write_text("best")
        for file in (tmp_path / "artifacts").iterdir():
            file.unlink()
        with pytest.raises(UserError, match=r"a piece of best\.yml is not at .*same --artifacts"), two.locked():
            pass


def test_no_artifact_is_left_of_what_was_replaced(at_database: Place, tmp_path: Path) -> None:
    one, two = at_database.worker("one"), at_database.worker("two")
    with two.joined():
        with one.joined():
            for text in ("first", "second"):
                with one.locked():
                    (one.path / "best.yml").write_text(text)
            one._exchange.put(one.worker, "aside", 0, b"aside")
            assert len(list((tmp_path / "artifacts").iterdir())) == 2
        (left,) = (tmp_path / "artifacts").iterdir()
        assert left.read_text() == "second"
