"""The demo at a reduced size, in a folder of its own, driven through the command line as a person does."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mergesearch.demo import TINY, make
from mergesearch.demo.command import write_config

CONFIG = Path("results/demo/demo.yml")


class Place:
    """A current folder with the demo in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "mergesearch", *map(str, arguments)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=self.folder, stdout=pipe, stderr=pipe, text=True, env=self.environment)

    def call(self, *arguments: object) -> str:
        process = self.start(*arguments)
        out, err = process.communicate()
        assert process.returncode == 0, err
        return out

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "HF_HUB_OFFLINE": "1"}

    def run_folder(self, name: str) -> Path:
        return self.folder / "results" / "runs" / name


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("demo")
    before = Path.cwd()
    # A shell's background jobs ignore Ctrl-C, and what they start would too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    try:
        make(Path("results/demo"), TINY)
        write_config()
    finally:
        os.chdir(before)
    return Place(folder)
