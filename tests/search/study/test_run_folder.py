"""What a run keeps of its candidates: scores of any shape, read back as they were, and trials in databases."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna.trial import TrialState
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import IntegrityError
from torch import Tensor

from mergesearch.errors import UserError
from mergesearch.evaluators import Item
from mergesearch.search.study import storage
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_folder import RunFolder

from ..helpers import Data, course, go

NAN = float("nan")


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


def assert_same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    assert found.dtype == torch.float64


def test_scores_without_their_items_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="longer"):
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
    with pytest.raises(UserError, match="not in this storage: the run was begun without a storage;"):
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
    opened, failures = storage.RDBStorage, iter(["UNIQUE constraint failed: version", "table studies already exists"])

    def racing(*arguments: Any, **keys: Any) -> Any:
        for failure in failures:
            raise IntegrityError("CREATE", None, Exception(failure))
        return opened(*arguments, **keys)

    monkeypatch.setattr(storage, "RDBStorage", racing)
    monkeypatch.setattr(storage, "TABLES_RETRIED", (0.0, 0.0, 0.0))
    go(on_database(config, tmp_path, 9), tmp_path)
    assert next(failures, None) is None


def test_a_password_is_not_shown(config: Data, tmp_path: Path) -> None:
    config["search"]["storage"] = "nosuch://me:secret@host/db"
    with pytest.raises(UserError, match=r"cannot open 'nosuch://me:\*\*\*@host/db'"):
        go(config, tmp_path)
