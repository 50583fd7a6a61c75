"""What bash, zsh and fish offer when Tab is pressed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from mergesearch.search.cli import main

NAME = "_MERGESEARCH_COMPLETE"


@pytest.fixture(autouse=True)
def _runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("results/runs/small", "results/runs/other", "elsewhere/large"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "config.yml").touch()
    (tmp_path / "results/runs/stray").mkdir()
    monkeypatch.chdir(tmp_path)


def offered(*words: str) -> set[str]:
    *before, last = words
    return {item.value for item in ShellComplete(main, {}, "mergesearch", NAME).get_completions(before, last)}


def test_commands_and_options() -> None:
    assert offered("so") == {"soup"}
    assert {"show", "status", "stop"} <= offered("s")
    assert {"--trials", "--timeout", "--trust"} <= offered("run", "my.yml", "--t")


def test_methods() -> None:
    assert offered("methods", "t") == {"task_arithmetic", "ties", "train_difference", "tsv"}


@pytest.mark.parametrize("command", ["show", "status", "stop", "push"])
def test_runs(command: str) -> None:
    assert offered(command, "") == {"small", "other"}
    assert offered(command, "sm") == {"small"}
    assert offered(command, "--results", "elsewhere", "") == {"large"}
    assert offered(command, "--results", "nowhere", "") == set()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_line_of_each_shell_gives_a_script(shell: str) -> None:
    if shell == "bash" and shutil.which("bash") is None:
        pytest.skip("click asks bash for its version")
    code = "from mergesearch.search.cli import main; main(prog_name='mergesearch')"
    environment = {**os.environ, NAME: f"{shell}_source"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert f"{NAME}={shell}_complete" in done.stdout


def test_the_version_is_that_of_the_package() -> None:
    from importlib.metadata import version

    from click.testing import CliRunner

    assert CliRunner().invoke(main, ["--version"]).output.strip().endswith(version("mergesearch"))
    assert isinstance(main, click.Group)
