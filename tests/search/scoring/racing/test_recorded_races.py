"""Races of the merges that benchmarks/racing.py replays, from its own data and by its own measure."""

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[4] / "benchmarks"


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Any]]:
    """The benchmark, and its data."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield import_module("racing"), import_module("racing_data")
    for name in ("racing", "racing_data", "machine"):
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_recorded_merges_are_raced_on_few_items_by_their_grades(modules: tuple[Any, Any]) -> None:
    benchmark, data = modules
    found = benchmark.measure(data.decisions(data.recorded_margins()), benchmark.ours, orders=range(2), pairs=200)
    assert found.items < 0.17
    assert found.wrong / found.pairs <= benchmark.ERROR
    assert found.regret == 0.0
