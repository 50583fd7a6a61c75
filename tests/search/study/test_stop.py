"""Asking the workers of a run to stop."""

from pathlib import Path

from mergesearch.search.study.stop import ask_to_stop, is_asked_to_stop
from mergesearch.search.study.workers import Workers


def test_the_living_workers_are_asked_and_no_others(tmp_path: Path) -> None:
    workers = Workers(tmp_path / "workers")
    workers.folder.mkdir()
    (workers.folder / "host.1.dead").touch()
    with workers.joined() as one, workers.joined() as two:
        assert not is_asked_to_stop(tmp_path, one)
        assert ask_to_stop(tmp_path) == sorted([one, two])
        assert is_asked_to_stop(tmp_path, one)
        assert is_asked_to_stop(tmp_path, two)
        with workers.joined() as later:
            assert not is_asked_to_stop(tmp_path, later)


def test_nobody_is_asked_by_a_damaged_file(tmp_path: Path) -> None:
    for content in ("", "3", "[", '{"a": 1}'):
        (tmp_path / "stop.json").write_text(content)
        assert not is_asked_to_stop(tmp_path, "host.1.x")


def test_nobody_works_on_it(tmp_path: Path) -> None:
    assert ask_to_stop(tmp_path) == []
