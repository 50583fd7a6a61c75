"""The memory plan, what is kept once, and several candidates built at once."""

import gc
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mergesearch.merge_ops.engine.engine import Engine, Uses, merge
from mergesearch.merge_ops.inputs import memory
from mergesearch.merge_ops.inputs.memory import MemoryPlan, Residents, plan_memory, same_bits
from mergesearch.merge_ops.kernels import native_backend as native
from mergesearch.merge_ops.kernels.plans import Pass
from mergesearch.merge_ops.methods import METHODS
from mergesearch.merge_ops.recipe.recipe import Recipe

from ..helpers import INPUTS, WITHOUT_TEXT, Counter, recipe_data, same_bytes

BASE, TUNED = str(INPUTS / "base"), [str(INPUTS / name) for name in ("ft1", "ft2", "ft3")]
GB = 10**9
SIZES = {"base": 2 * GB, "tuned": 2 * GB}


@pytest.mark.parametrize(
    ("device", "gpu", "host", "place"),
    [
        ("cuda", 80, 80, "device"),
        ("cuda", 7, 80, "host"),
        ("cuda", 7, 4, "disk"),
        ("cpu", 0, 80, "device"),
        ("cpu", 0, 7, "disk"),
    ],
)
def test_the_fastest_place_where_all_fits(
    device: str, gpu: int, host: int, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (gpu * GB, 80 * GB))
    monkeypatch.setattr(memory, "free_on_host", lambda: host * GB)
    assert plan_memory(SIZES, 2 * GB, device).place == place


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("device", "kept in memory on cuda (9 GB free); tensors that are equal are kept once"),
        ("host", "kept in the host's memory (9 GB free) and streamed to cuda, where they do not fit"),
        ("disk", "read from disk for every candidate: they do not fit into memory (9 GB free)"),
    ],
)
def test_the_plan_says_what_is_kept_where(place: Any, expected: str) -> None:
    line = str(MemoryPlan("cuda", place, {"base": 1_234_567_890, "b": 12}, 9 * GB))
    assert line == f"checkpoints: base 1.23 GB, b 12 bytes; 1.23 GB in all, {expected}"


def test_free_memory_is_known() -> None:
    assert 0 < memory.free_on_host() < 1 << 50


TENSORS = {
    ("a", "w"): torch.arange(1000.0),
    ("b", "w"): torch.arange(1000.0),
    ("c", "w"): torch.arange(1000.0).flip(0),
    ("c", "v"): torch.arange(1000.0),
}


@pytest.mark.parametrize(("place", "reads"), [("device", 1), ("host", 1), ("disk", 2)])
def test_tensors_are_read_as_the_plan_says(place: Any, reads: int) -> None:
    counter = Counter(lambda *key: TENSORS[key].clone())
    residents = Residents(MemoryPlan("cpu", place, {}, 0), counter)
    residents.prefetch([("a", "w")])
    for _ in range(2):
        assert all(torch.equal(residents.tensor(*key), tensor) for key, tensor in TENSORS.items())
    assert counter.calls == reads * len(TENSORS)


def test_equal_tensors_are_kept_once() -> None:
    residents = Residents(MemoryPlan("cpu", "device", {}, 0), lambda *key: TENSORS[key].clone())
    found = {key: residents.tensor(*key) for key in TENSORS}
    assert found["a", "w"] is found["b", "w"]
    assert residents.saved == 4000


def test_equal_means_every_bit() -> None:
    zero = torch.zeros(100)
    assert same_bits(zero, zero.clone())
    assert not same_bits(zero, -zero)
    assert not same_bits(zero, zero.bfloat16())
    assert not same_bits(zero, zero.view(10, 10))


# Several candidates at once


def recipe(name: str, seed: int) -> Recipe:
    return Recipe.read(recipe_data(METHODS[name], BASE, TUNED, seed))


def spaces(engine: Engine, count: int) -> list[dict[str, Tensor]]:
    return [{name: torch.full_like(view, 7.0) for name, view in engine.views.items()} for _ in range(count)]


@pytest.mark.parametrize("place", ["device", "disk"])
def test_candidates_built_at_once_are_those_built_alone(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_on_host", lambda: GB if place == "device" else 0)
    engine = Engine([BASE, *TUNED], BASE)
    assert engine.memory.place == place
    recipes = [recipe(name, seed) for name in ("ties", "linear", "dare_ties") for seed in (1, 2)]
    outs, passes = spaces(engine, len(recipes)), Counter(Pass)
    monkeypatch.setattr("mergesearch.merge_ops.assembly.merger.Pass", passes)
    engine.build_many(recipes, outs)
    # linear takes no base: its inputs are others.
    assert passes.calls == 2 * len(engine.names)
    for one, out in zip(recipes, outs, strict=True):
        engine.build(one)
        assert all(same_bytes(out[name], view) for name, view in engine.views.items())


@pytest.mark.skipif(native.library() is None, reason="there is no C compiler")
def test_a_candidate_is_one_call_of_the_compiled_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, calls = Engine([BASE, *TUNED], BASE), Counter(native.combine)
    monkeypatch.setattr(native, "combine", calls)
    engine.build(recipe("ties", 1))
    assert calls.calls == 1


def test_an_engine_goes_with_its_last_user() -> None:
    engine = Engine([BASE, *TUNED], BASE)
    for name in ("ties", "linear", "della"):
        engine.build(recipe(name, 1))
    views = [
        weakref.ref(engine),
        weakref.ref(engine._merger),
        *map(weakref.ref, engine._merger.residents._kept.values()),
    ]
    gc.disable()
    try:
        del engine
        assert [view() for view in views] == [None] * len(views)
    finally:
        gc.enable()


def test_the_engine_says_where_it_keeps_what() -> None:
    plan = Engine([BASE, TUNED[0]], BASE).memory
    assert (plan.device, plan.place, list(plan.checkpoints)) == ("cpu", "device", [BASE, TUNED[0]])
    assert all(count > 0 for count in plan.checkpoints.values())


def nbytes(value: Any) -> int:
    """Of all tensors and arrays that hang on a value."""
    if isinstance(value, Tensor | np.ndarray):
        return value.nbytes
    if isinstance(value, Mapping | list | tuple):
        return sum(map(nbytes, value.values() if isinstance(value, Mapping) else value))
    return nbytes(vars(value)) if hasattr(value, "__dict__") else 0


@pytest.mark.parametrize("name", WITHOUT_TEXT)
def test_the_plan_counts_what_a_method_keeps(name: str) -> None:
    engine = Engine([BASE, *TUNED], BASE, uses=Uses([METHODS[name]]))
    engine.build(Recipe.read(recipe_data(METHODS[name], BASE, TUNED, 1, scope="tensor")))
    kept, known = nbytes(engine._merger.statistics), nbytes(engine._merger.residents._kept)
    # A few numbers for each row need not be counted.
    assert abs(kept - engine.memory.statistics) <= 0.1 * known


def test_what_methods_keep_needs_its_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_on_host", lambda: 8 * GB)
    assert plan_memory(SIZES, 2 * GB, "cpu").place == "device"
    plan = plan_memory(SIZES, 2 * GB, "cpu", 3 * GB)
    assert plan.place == "disk"
    assert str(plan).endswith("; beside them at most 3 GB of statistics")


def test_gradients_need_their_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_on_host", lambda: 8 * GB)
    plan = plan_memory(SIZES, 2 * GB, "cpu", gradients=2 * GB)
    assert plan.place == "disk"
    assert str(plan).endswith("; gradients take 2 GB beside the live model")
    engine = Engine([BASE, *TUNED], BASE, uses=Uses(gradients=True))
    assert engine.memory.gradients == sum(parameter.nbytes for parameter in engine.model.parameters())


def test_a_merge_says_what_it_holds_in_memory(tmp_path: Path) -> None:
    said: list[str] = []
    merge(recipe("linear", 1), tmp_path / "out", say=said.append)
    assert len(said) == 1
    assert said[0].startswith(f"checkpoints: {TUNED[0]} ")
    assert "read from disk tensor by tensor, at most " in said[0]
