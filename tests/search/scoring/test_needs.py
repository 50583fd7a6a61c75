"""What a search needs of a machine."""

from pathlib import Path
from typing import Any

import pytest

from mergesearch.merge_ops.inputs.memory import size
from mergesearch.merge_ops.methods import find_method
from mergesearch.search.candidates.plan import open_plan
from mergesearch.search.config import Config
from mergesearch.search.scoring.cost import memory_plan
from mergesearch.search.scoring.needs import PROCESS, SIZES, Needs, cells, free_here, usual_needs

ROOT = Path(__file__).parents[3]
ENGINE, README = ROOT / "docs" / "engine.md", ROOT / "README.md"


def test_places() -> None:
    gpu, streamed, least, cpu, slow = Needs(30, 8, 2, 4, 10).places
    assert {place.disk for place in (gpu, streamed, least, cpu, slow)} == {40}
    assert (gpu.host, gpu.device) == (PROCESS, 55)
    assert (streamed.host, streamed.device) == (PROCESS + 40, 15)
    assert (least.host, least.device) == (PROCESS, 15)
    assert (cpu.host, cpu.device, slow.host) == (PROCESS + 55, 0, PROCESS + 15)
    assert cells(cpu)[-1] == ""


def test_those_of_a_config(config: dict[str, Any]) -> None:
    plan = open_plan(Config.model_validate(config), "config")
    memory = memory_plan(plan.problem, plan.takes_gradients)
    one, *others = memory.checkpoints.values()
    found = Needs.of(plan.problem, memory)
    assert (found.checkpoints, found.live, found.written) == (one + sum(others), one, one)
    assert (found.statistics, found.gradients) == (memory.statistics, memory.gradients)
    data = {**config, "output": {"name": "small", "model": False}}
    plan = open_plan(Config.model_validate(data), "config")
    assert Needs.of(plan.problem, memory).written == 0


def test_what_is_free_here(tmp_path: Path) -> None:
    free = free_here(tmp_path / "not" / "yet", "cpu")
    assert free.disk > 0
    assert free.host > 0
    assert free.device == 0


@pytest.mark.parametrize(("name", "billions"), [("1B", 1.1), ("7B", 6.7), ("13B", 13.0)])
def test_sizes_of_models(name: str, billions: float) -> None:
    assert usual_needs(SIZES[name]).live / 2e9 == pytest.approx(billions, rel=0.01)


def test_statistics_grow_with_the_methods() -> None:
    assert usual_needs(SIZES["1B"]).statistics >= find_method("ties").statistics_bytes((2048, 2048), 2)


def test_the_table_of_the_documentation() -> None:
    text = ENGINE.read_text(encoding="utf-8")
    for name, shape in SIZES.items():
        gpu, streamed, _, cpu, slow = usual_needs(shape).places
        numbers = [size(gpu.disk), size(gpu.device), f"{size(streamed.device)}, {size(streamed.host)}"]
        assert " | ".join([f"| {name}", *numbers, size(cpu.host), size(slow.host)]) in text
        row = [f"| {name}", *numbers, size(cpu.host)]
        assert " | ".join(row) + " |" in README.read_text(encoding="utf-8")
        assert f"{size(usual_needs(shape, gradients=False).places[1].device)} ({name})" in text
