"""How the workers on a Ray cluster share its processors, and what is said where there is no Ray."""

import builtins
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mergesearch.search.cli import main
from mergesearch.search.on_ray import NO_RAY, processors_each


@pytest.mark.parametrize(
    ("nodes", "workers", "gpus", "each"),
    [
        ([(2, 0)], 2, 0, 1),
        ([(16, 0)], 3, 0, 5),
        ([(8, 0), (8, 0)], 3, 0, 4),
        ([(2, 0)], 4, 0, 0.5),
        ([(1, 0), (1, 0)], 3, 0, 0.5),
        ([(64, 0), (16, 8)], 8, 1, 2),
        ([(16, 4), (8, 4)], 8, 1, 2),
        ([(16, 8), (16, 2)], 3, 1, 8),
    ],
)
def test_all_workers_find_a_place(nodes: list[tuple[float, float]], workers: int, gpus: int, each: float) -> None:
    assert processors_each(nodes, workers, gpus) == each


def test_without_ray_the_command_is_named(config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "ray":
            raise ImportError(name)
        return found(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    options = ["--ray", "local", "--workers", "2", "--results", str(tmp_path)]
    result = CliRunner().invoke(main, ["submit", str(config_file), *options])
    assert result.exit_code == 2
    assert NO_RAY in result.output


def test_options_of_slurm_are_refused(config_file: Path) -> None:
    result = CliRunner().invoke(main, ["submit", str(config_file), "--ray", "local", "--workers", "2", "--time", "1"])
    assert result.exit_code == 2
    assert "--time: found beside --ray, but it is for --slurm" in result.output
