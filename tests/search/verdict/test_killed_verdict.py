"""Runs that are killed before a file operation: what they leave in the end is what a run leaves that was not killed."""

import shutil
from pathlib import Path

import pytest

from mergesearch.search.run import Conclusion
from mergesearch.search.study.run_folder import RunFolder

from ..helpers import Data, at_call, course, go, kill
from ..helpers import Killed as KilledHere
from ..processes import is_killed_before

VERDICT = (Conclusion, "write")
RESULTS = ("verdict.json", "best.yml", "recommended.yml", "report.html", "model/model.safetensors", "test_looks.json")


@pytest.fixture
def searched(config: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run whose search has ended, without its verdict."""
    config["search"]["trials"] = 10
    with monkeypatch.context() as patch:
        patch.setattr(Conclusion, "write", at_call(1, kill, Conclusion.write))
        with pytest.raises(KilledHere):
            go(config, tmp_path / "searched")
    return tmp_path / "searched"


def left(results: Path) -> dict[str, bytes]:
    """The bytes of everything that a verdict leaves, and the content of all scores."""
    folder = RunFolder(results / "small")
    scores = {name: repr(folder.load_scores(name)).encode() for name in folder.scores_names()}
    return {name: (folder.path / name).read_bytes() for name in RESULTS} | scores


def check_killed_before(operation: int, config: Data, searched: Path, results: Path, whole: dict[str, bytes]) -> bool:
    """False where the verdict has fewer file operations."""
    shutil.copytree(searched, results)
    is_killed = is_killed_before(operation, config, results, VERDICT)
    if is_killed:
        go(config, results)
    assert left(results) == whole, operation
    assert not list(results.rglob(".*"))
    shutil.rmtree(results)
    return is_killed


def test_a_verdict_that_is_killed_before_some_file_operations(config: Data, searched: Path, tmp_path: Path) -> None:
    shutil.copytree(searched, tmp_path / "whole")
    go(config, tmp_path / "whole")
    whole = left(tmp_path / "whole")
    for operation in (1, 8, 30, 61):
        assert check_killed_before(operation, config, searched, tmp_path / "torn", whole)


@pytest.mark.slow
@pytest.mark.parametrize("first", [1, 2])
def test_a_verdict_that_is_killed_before_every_file_operation(
    config: Data, searched: Path, tmp_path: Path, first: int
) -> None:
    shutil.copytree(searched, tmp_path / "whole")
    go(config, tmp_path / "whole")
    whole, operation = left(tmp_path / "whole"), first
    while check_killed_before(operation, config, searched, tmp_path / "torn", whole):
        operation += 2  # two tests of this kind run side by side
    assert operation > 60


def check_search_killed_before(operations: range, config: Data, tmp_path: Path) -> int:
    """Kills one run again and again; the number of kills."""
    go(config, tmp_path / "whole")
    kills = 0
    for operation in operations:
        kills += is_killed_before(operation, config, tmp_path / "torn")
    go(config, tmp_path / "torn")
    assert course(tmp_path / "torn" / "small") == course(tmp_path / "whole" / "small")
    for name in ("best.yml", "recommended.yml", "model/model.safetensors"):
        assert (tmp_path / "torn" / "small" / name).read_bytes() == (tmp_path / "whole" / "small" / name).read_bytes()
    assert not list((tmp_path / "torn").rglob(".*"))
    return kills


def test_a_search_that_is_killed_before_some_file_operations(config: Data, tmp_path: Path) -> None:
    config["search"]["trials"] = 10
    assert check_search_killed_before(range(3, 200, 45), config, tmp_path) == 5


@pytest.mark.slow
def test_a_search_that_is_killed_before_its_first_file_operations(config: Data, tmp_path: Path) -> None:
    """Each time a little later, so that each operation of the first trials is the last one once."""
    config["search"]["trials"] = 10
    assert check_search_killed_before(range(1, 150), config, tmp_path) > 100
