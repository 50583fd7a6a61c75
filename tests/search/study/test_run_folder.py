"""What a run keeps of its candidates: scores of any shape, read back as they were, and trials in databases."""

import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from threading import Timer
from typing import Any, NoReturn

import pytest
import torch
from optuna.trial import TrialState
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session
from torch import Tensor

from mergesearch.errors import DamagedFileError, UserError
from mergesearch.evaluators import Item
from mergesearch.evaluators.tasks.bits_per_byte import BitsPerByte
from mergesearch.search.candidates.plan import open_plan
from mergesearch.search.config import Config
from mergesearch.search.optimize.callbacks import Watcher
from mergesearch.search.run import run
from mergesearch.search.study import database
from mergesearch.search.study import trials as t
from mergesearch.search.study.opening import open_run
from mergesearch.search.study.run_folder import RunFolder

from ..helpers import Data, at_call, course, go, killed, study_of

NAN = float("nan")
INF = float("inf")


@pytest.mark.parametrize(
    "scores",
    [
        {"one": [0.5, 1.0, 0.0], "several": [[1.0, 2.0], [3.0, NAN], [0.1, -7.0]], "another": [1 / 3]},
        {"several": [[1.0, 2.0, 3.0]], "one": [0.25]},
        {"one": [NAN, 1e-300]},
        {"column": [[1.0], [2.0]], "one": [1.0, 2.0]},
        {"none": [], "one": [1.0]},
        {"none": []},
        {},
    ],
)
def test_scores_come_back_as_they_were(scores: dict[str, list[float]], tmp_path: Path) -> None:
    given = {task: torch.tensor(values, dtype=torch.float64) for task, values in scores.items()}
    items = {task: [Item(f"item {n}", task, str(n)) for n in range(len(values))] for task, values in given.items()}
    folder = RunFolder(tmp_path)
    folder.save_scores("trial", given, items)
    found = folder.load_scores("trial")
    assert list(found) == [task for task, values in given.items() if len(values)]
    for task, values in found.items():
        assert_same(values, given[task])


@pytest.mark.parametrize("scores", [[1.0, 0.0], [[1.0], [0.0]], [[1.0, 2.0, 3.0], [0.0, 5.0, 6.0]]])
@pytest.mark.parametrize("margins", [[0.25, NAN], [[INF], [-2.5]], [[1.0, -2.0], [INF, 4.0]]])
def test_margins_come_back_beside_the_scores(scores: list[float], margins: list[float], tmp_path: Path) -> None:
    items = {name: [Item(item, name, item) for item in "ab"] for name in ("graded", "not")}
    given, behind = torch.tensor(scores, dtype=torch.float64), torch.tensor(margins, dtype=torch.float64)
    folder = RunFolder(tmp_path)
    folder.save_scores("trial", {"graded": given, "not": given}, items, {"graded": behind})
    turned = {name: of_task[::-1] for name, of_task in items.items()}
    found, found_margins = folder.load_scores_and_margins("trial", turned)
    assert_same(found["graded"], given.flip(0))
    assert_same(found["not"], given.flip(0))
    assert_same(found_margins["graded"], behind.flip(0))
    assert list(found_margins) == ["graded"]


def assert_same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    assert found.dtype == torch.float64


def test_scores_belong_to_items_by_id(tmp_path: Path) -> None:
    items = [Item(name, "one", name) for name in "abc"]
    folder = RunFolder(tmp_path)
    folder.save_scores("trial", {"one": torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])}, {"one": items})
    found = folder.load_scores("trial", {"one": [items[2], items[0], items[1]], "two": [Item("a", "two", "a")]})
    assert found["one"].tolist() == [[3.0, 30.0], [1.0, 10.0], [2.0, 20.0]]
    assert list(found) == ["one"]
    with pytest.raises(UserError, match=r"trial\.parquet: has scores of other items of task 'one' .*: c; bring back"):
        folder.load_scores("trial", {"one": items[:2]})
    with pytest.raises(DamagedFileError, match="has no scores of 1 items of task 'one': d"):
        folder.load_scores("trial", {"one": [*items, Item("d", "one", "d")]})


@pytest.mark.parametrize("objectives", ["mean", "pareto"])
def test_a_run_of_which_nothing_was_scored_does_not_lock_its_name(
    config: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objectives: str
) -> None:
    """Another config begins it anew, with other directions too; after the first scores it is another run."""
    config["search"]["trials"] = 9
    killed(monkeypatch, "score", 1, config, tmp_path)
    task = config["evaluate"]["tasks"][0]
    config["evaluate"] |= {"tasks": [task, {**task, "task": "again"}], "aggregate": objectives}
    verdict = go(config, tmp_path)
    assert verdict.trials == 9
    assert len(study_of(tmp_path / "small").directions) == (2 if objectives == "pareto" else 1)
    config["evaluate"]["split"]["seed"] = 1
    with pytest.raises(UserError, match=r"was begun with another config: evaluate\.split\.seed was 0, now 1"):
        go(config, tmp_path)


def test_a_run_whose_first_candidates_all_failed_does_not_lock_its_name(
    config: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> NoReturn:
        raise RuntimeError("no such luck")

    config["search"]["trials"] = 3
    with monkeypatch.context() as patch:
        patch.setattr(BitsPerByte, "score", failing)
        with pytest.raises(UserError, match="no such luck"):
            go(config, tmp_path)
    config["search"]["seed"] = 1
    assert go(config, tmp_path).trials == 3


def test_a_run_that_another_worker_is_at_is_not_begun_anew(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "small")
    with folder.joined():
        open_run(folder, {"search": {"seed": 0}}, None)
        other = RunFolder(tmp_path / "small")
        with other.joined(), pytest.raises(UserError, match=r"search\.seed was 0, now 1"):
            open_run(other, {"search": {"seed": 1}}, None)


def test_scores_without_their_items_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has 1 items, but another number of scores"):
        RunFolder(tmp_path).save_scores("trial", {"one": torch.zeros(2)}, {"one": [Item("0", "one", "x")]})


def on_database(config: Data, tmp_path: Path, trials: int = 10) -> Data:
    config["search"] |= {"storage": f"sqlite:///{tmp_path / 'study.db'}", "trials": trials}
    return config


@pytest.mark.parametrize("call", [30, 60, 90])
def test_a_database_that_fails_stops_the_run_which_goes_on_later(
    config: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    calls, execute = iter(range(10**6)), DefaultDialect.do_execute

    def failing(*arguments: Any, **keys: Any) -> Any:
        if next(calls) >= call and "INSERT" in arguments[2]:
            raise sqlite3.OperationalError("server closed the connection")
        return execute(*arguments, **keys)

    go(on_database(config, tmp_path, 9), tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(DefaultDialect, "do_execute", failing)
        with pytest.raises(
            UserError, match=r"small: the database fails \(.*closed.*the same command goes on .* answers"
        ):
            go(on_database(config, tmp_path, 14), tmp_path)
    verdict = go(config, tmp_path)
    finished = t.finished(RunFolder(tmp_path / "small").open_study(config["search"]["storage"]))
    assert len(finished) == verdict.trials == 14
    assert {trial.state for trial in finished} == {TrialState.COMPLETE}, "no candidate is to blame for the database"


def test_a_run_is_not_gone_on_with_in_another_storage(config: Data, tmp_path: Path) -> None:
    config["search"]["trials"] = 9
    go(config, tmp_path / "journal")
    before = course(tmp_path / "journal" / "small")
    with pytest.raises(UserError, match="not in this storage: the run was begun without a storage"):
        go(on_database(config, tmp_path), tmp_path / "journal")
    go(config, tmp_path / "database")
    del config["search"]["storage"]
    with pytest.raises(UserError, match="not in this storage: the run was begun with storage: sqlite:///"):
        go(config, tmp_path / "database")
    go(config, tmp_path / "journal")
    assert course(tmp_path / "journal" / "small")[:9] == before


def test_a_process_that_is_second_to_make_the_tables_tries_again(
    config: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = database.PatientDatabase
    failures = iter(["UNIQUE constraint failed: version", "table studies already exists"])

    def racing(*arguments: Any, **keys: Any) -> Any:
        for failure in failures:
            raise IntegrityError("CREATE", None, Exception(failure))
        return opened(*arguments, **keys)

    monkeypatch.setattr(database, "PatientDatabase", racing)
    monkeypatch.setattr(database, "PAUSES", (0.0, 0.0, 0.0))
    go(on_database(config, tmp_path, 9), tmp_path)
    assert next(failures, None) is None


def test_a_password_is_not_shown(config: Data, tmp_path: Path) -> None:
    config["search"]["storage"] = "nosuch://me:secret@host/db"
    with pytest.raises(UserError, match=r"cannot open 'nosuch://me:\*\*\*@host/db'"):
        go(config, tmp_path)


URLS = ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite+pysqlite:///:memory:", "sqlite:///file:x?mode=memory"]


@pytest.mark.parametrize("url", URLS)
def test_a_database_in_memory_is_refused(config: Data, tmp_path: Path, url: str) -> None:
    config["search"]["storage"] = url
    with pytest.raises(ValueError, match="a database in memory; expected one in a file"):
        go(config, tmp_path)


def test_a_locked_database_is_waited_for(config: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process has it in the middle of the run, for longer than SQLite itself waits."""
    monkeypatch.setattr(database, "SQLITE_SECONDS", 0.1)
    monkeypatch.setattr(database, "PAUSES", (0.0, *[0.2] * 50))
    on_database(config, tmp_path, 9)
    go(config, tmp_path / "whole")
    (tmp_path / "study.db").unlink()
    score = BitsPerByte.score

    def lock() -> None:
        other = sqlite3.connect(tmp_path / "study.db", check_same_thread=False)
        other.execute("BEGIN EXCLUSIVE")
        Timer(2, other.close).start()

    monkeypatch.setattr(BitsPerByte, "score", at_call(4, lock, score))
    said: list[str] = []
    run(open_plan(Config.model_validate(config), "config"), tmp_path / "locked", Watcher(stage=said.append))
    assert any("the database does not answer" in line and "locked" in line for line in said)
    names = ("best.yml", "recommended.yml", "verdict.json")
    one, two = ([(tmp_path / where / "small" / name).read_bytes() for name in names] for where in ("whole", "locked"))
    assert one == two


def test_a_database_that_stays_locked_stops_the_run(
    config: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "SQLITE_SECONDS", 0.01)
    monkeypatch.setattr(database, "PAUSES", (0.0, 0.01, 0.01))
    on_database(config, tmp_path, 9)
    with closing(sqlite3.connect(tmp_path / "study.db")) as other:
        with pytest.MonkeyPatch.context() as patch:
            lock = partial(other.execute, "BEGIN EXCLUSIVE")
            patch.setattr(BitsPerByte, "score", at_call(4, lock, BitsPerByte.score))
            with pytest.raises(UserError, match=r"small: the database fails \(.*locked.*when it answers"):
                go(config, tmp_path)
        with pytest.raises(UserError, match=r"cannot open 'sqlite:.*locked"):
            go(config, tmp_path)
    assert go(config, tmp_path).trials == 9


def test_a_lost_answer_does_not_end_a_trial_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database ends the trial, and the connection breaks before it says so."""
    monkeypatch.setattr(database, "PAUSES", (0.0, 0.0, 0.0))
    study = RunFolder(tmp_path).open_study(f"sqlite:///{tmp_path / 'study.db'}")
    trial, commits = study.ask(), iter([True])
    commit = Session.commit

    def broken(self: Session) -> None:
        commit(self)
        if next(commits, False):
            raise OperationalError("COMMIT", None, Exception("database is locked"))

    monkeypatch.setattr(Session, "commit", broken)
    study.tell(trial, 0.5)
    assert [one.value for one in study.get_trials()] == [0.5]
