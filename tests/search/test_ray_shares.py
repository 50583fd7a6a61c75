"""How the workers on a Ray cluster share its processors, and what is said where there is no Ray."""

import builtins
import socket
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mergesearch.errors import UserError
from mergesearch.search.cli import main
from mergesearch.search.on_ray import NO_RAY, check_address
from mergesearch.search.ray_shares import Share, share_of


@pytest.mark.parametrize(
    ("nodes", "workers", "gpus", "each", "on_a_node"),
    [
        ([(2, 0)], 2, 0, 1, 2),
        ([(16, 0)], 3, 0, 5, 3),
        ([(8, 0), (8, 0)], 3, 0, 4, 2),
        ([(2, 0)], 4, 0, 0.5, 4),
        ([(1, 0), (1, 0)], 3, 0, 0.5, 2),
        ([(64, 0), (64, 0)], 2, 0, 64, 1),
        ([(64, 0), (16, 8)], 8, 1, 2, 8),
        ([(16, 4), (8, 4)], 8, 1, 2, 4),
        ([(16, 8), (16, 2)], 3, 1, 8, 2),
        ([(0, 8), (16, 0)], 8, 1, 0, 8),
    ],
)
def test_all_workers_find_a_place(nodes: Any, workers: int, gpus: Any, each: float, on_a_node: int) -> None:
    assert share_of(nodes, workers, "auto") == Share(workers, gpus, each, on_a_node)


def test_without_ray_the_command_is_named(config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "ray":
            raise ImportError(name)
        return found(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    options = ["--ray", "local", "--workers", "2", "--results", str(tmp_path)]
    result = CliRunner().invoke(main, ["run", str(config_file), *options])
    assert result.exit_code == 2
    assert NO_RAY in result.output


def test_an_address_where_nothing_answers() -> None:
    for address in ("local", "auto"):
        check_address(address)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        check_address(address)
    with pytest.raises(UserError, match=f"--ray: cannot connect to {address}: "):
        check_address(address)
    with pytest.raises(UserError, match="run this on a node of the cluster"):
        check_address(f"ray://{address}")


@pytest.mark.parametrize(
    ("nodes", "asked", "device", "found"),
    [
        ([(8, 4), (8, 4)], "auto", "auto", (8, 1)),
        ([(8, 4), (8, 4)], 3, "cuda", (3, 1)),
        ([(8, 4), (8, 4)], 3, "cpu", (3, 0)),
        ([(8, 4), (8, 4)], "auto", "cpu", (2, 0)),
        ([(8, 0), (8, 0), (8, 0)], "auto", "auto", (3, 0)),
        ([(8, 0)], 5, "auto", (5, 0)),
    ],
)
def test_each_worker_has_a_gpu_where_there_are_any(nodes: Any, asked: Any, device: Any, found: Any) -> None:
    share = share_of(nodes, asked, device)
    assert (share.workers, share.gpus) == found


def test_too_few_gpus() -> None:
    with pytest.raises(UserError, match="workers: found 3, but the cluster has 2 GPUs"):
        share_of([(8, 2)], 3, "auto")
    with pytest.raises(UserError, match="no node of the cluster has a GPU"):
        share_of([(8, 0)], 3, "cuda")
