"""What a run records of the machines that its sessions ran on."""

import platform
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from mergesearch.search.study import environment
from mergesearch.search.study.environment import FILE, note_environment, read_environments


def test_equal_sessions_are_recorded_once_and_others_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note_environment(tmp_path, "cpu")
    note_environment(tmp_path, "cpu")
    (first,) = read_environments(tmp_path)
    assert first.versions["torch"] == version("torch")
    assert first.versions["python"] == platform.python_version()
    assert first.device == "cpu"
    assert first.threads == torch.get_num_threads()
    monkeypatch.setattr(environment, "version", lambda name: f"9.9 of {name}")
    note_environment(tmp_path, "cpu")
    assert [each.versions["torch"] for each in read_environments(tmp_path)] == [version("torch"), "9.9 of torch"]


def test_nothing_names_the_host_or_its_user(tmp_path: Path) -> None:
    note_environment(tmp_path, "cpu")
    text = (tmp_path / FILE).read_text(encoding="utf-8")
    assert str(Path.home()) not in text
    assert list(read_environments(tmp_path)[0].__dict__) == [
        *("versions", "system", "processor", "processors", "threads", "memory", "device")
    ]


@pytest.mark.parametrize("content", ["", "{", "[]", '[{"device": 1}]'])
def test_a_damaged_file_is_written_anew(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    assert read_environments(tmp_path) == []
    note_environment(tmp_path, "cpu")
    assert len(read_environments(tmp_path)) == 1


def test_a_machine_that_says_nothing_of_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "CPU_INFO", tmp_path / "missing")
    monkeypatch.setattr(environment.os, "sysconf", lambda name: (_ for _ in ()).throw(ValueError(name)))
    note_environment(tmp_path, "cpu")
    (found,) = read_environments(tmp_path)
    assert found.memory is None
    assert found.processor
