"""A small search: three tiny checkpoints, and bits per byte of a few texts as the task."""

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mergesearch.parsing import dump_yaml

from .helpers import go, llama_of_letters, save_fine_tunes

if TYPE_CHECKING:
    from .postgresql import Server


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoints base, one and two, which differ a little."""
    folder = tmp_path_factory.mktemp("models")
    save_fine_tunes(folder, *llama_of_letters("abcdefghijklmnopqrstuvwxyz .\n", layers=2), 0.02)
    return folder


@pytest.fixture(scope="session")
def finished(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small run of two tasks, whose winner is not recommended. Only to be read."""
    folder = tmp_path_factory.mktemp("run")
    for name, words in (("letters", "abc abd bcd "), ("more", "efg hij jih ")):
        for number in range(8):
            file = folder / name / f"{number}.txt"
            file.parent.mkdir(exist_ok=True)
            file.write_text(words * (number + 2) + chr(97 + number))
    files = {name: [str(folder / name / "*.txt")] for name in ("letters", "more")}
    tasks = [{"evaluator": "bits_per_byte", "task": name, "files": paths} for name, paths in files.items()]
    config: dict[str, Any] = {
        "recipe": {
            "merge_method": "linear",
            "models": [
                {"model": str(models / "one"), "parameters": {"weight": {"search": [0.0, 1.0]}}},
                {"model": str(models / "two"), "parameters": {"weight": 1.0}},
            ],
        },
        "evaluate": {"tasks": tasks, "split": {"search": 0.5, "test": 0.5, "seed": 0}},
        "search": {"trials": 7, "sampler": "random", "seed": 0},
        "output": {"name": "small"},
    }
    go(config, folder / "results")
    return folder / "results" / "small"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Twelve short text files."""
    rng = random.Random(0)
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(12):
        words = ("".join(rng.choices("abcdefghij", k=4)) for _ in range(12))
        (folder / f"{number:02}.txt").write_text(" ".join(words) + ".\n")
    return folder


@pytest.fixture
def config(models: Path, texts: Path) -> dict[str, Any]:
    """A config that searches over the methods with eight trials beside the nine baselines."""
    return {
        "recipe": {
            "merge_method": {"search": ["task_arithmetic", "ties", "dare_ties"]},
            "base_model": str(models / "base"),
            "models": [
                {
                    "model": str(models / "one"),
                    "parameters": {"weight": {"search": [0.0, 1.5], "curve": 3}, "density": {"search": [0.1, 1.0]}},
                },
                {
                    "model": str(models / "two"),
                    "parameters": {
                        "weight": [
                            {"filter": "mlp", "value": {"search": [0.0, 1.5]}},
                            {"value": {"search": [0.0, 1.5]}},
                        ]
                    },
                },
            ],
        },
        "evaluate": {
            "tasks": [{"evaluator": "bits_per_byte", "task": "text", "files": [str(texts / "*.txt")]}],
            "split": {"search": 0.5, "test": 0.5, "seed": 0},
        },
        "search": {"trials": 17, "sampler": "tpe", "seed": 0},
        "output": {"name": "small"},
    }


@pytest.fixture
def config_file(config: dict[str, Any], tmp_path: Path) -> Path:
    file = tmp_path / "config.yml"
    file.write_text(dump_yaml(config))
    return file


@pytest.fixture
def server() -> Iterator["Server"]:
    """A PostgreSQL server, which a test may stop and start again."""
    from .postgresql import Server

    with tempfile.TemporaryDirectory(prefix="mergesearch-") as folder:
        server = Server(Path(folder))
        server.start()
        yield server
        server.stop()
