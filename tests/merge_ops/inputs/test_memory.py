"""The memory plan, the cache of tensors, and candidates from checkpoints at every location."""

import gc
import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mergesearch.errors import UserError
from mergesearch.merge_ops.checkpoint.sharing import SHARERS
from mergesearch.merge_ops.checkpoint.tensor_files import TensorFile
from mergesearch.merge_ops.engine.engine import Engine, MemoryReserve, Merger, merge
from mergesearch.merge_ops.engine.options import MergeOptions
from mergesearch.merge_ops.inputs import memory
from mergesearch.merge_ops.inputs.memory import MemoryPlan, plan_memory
from mergesearch.merge_ops.inputs.tensor_cache import TensorCache, same_bits
from mergesearch.merge_ops.kernels import native_backend
from mergesearch.merge_ops.methods import METHODS
from mergesearch.merge_ops.recipe.recipe import Recipe

from ..helpers import INPUTS, WITHOUT_TEXT, Counter, recipe_data, same_bytes, save, tensor

BASE, TUNED = str(INPUTS / "base"), [str(INPUTS / name) for name in ("ft1", "ft2", "ft3")]
GB = 10**9
SIZES = {"base": 2 * GB, "tuned": 2 * GB}


@pytest.mark.parametrize(
    ("device", "gpu", "host", "location"),
    [
        ("cuda", 80, 80, "device"),
        ("cuda", 7, 80, "host"),
        ("cuda", 7, 4, "disk"),
        ("cpu", 0, 80, "device"),
        ("cpu", 0, 7, "disk"),
    ],
)
def test_the_fastest_place_where_all_fits(
    device: str, gpu: int, host: int, location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (gpu * GB, 80 * GB))
    monkeypatch.setattr(memory, "free_on_host", lambda: host * GB)
    assert plan_memory(SIZES, 2 * GB, device).location == location


@pytest.mark.parametrize(
    ("device", "host", "location"),
    [("cpu", 21, "device"), ("cpu", 19, "disk"), ("cuda", 8.8, "host"), ("cuda", 8.7, "disk")],
)
def test_processes_share_the_checkpoints_and_nothing_else(
    device: str, host: float, location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 GB once, and four times 1 GB of statistics, and on the CPU 2 GB of a live model; .8 of the memory is usable."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (3 * GB, 80 * GB))
    monkeypatch.setattr(memory, "free_on_host", lambda: int(host * GB))
    monkeypatch.setenv(SHARERS, "4")
    plan = plan_memory(SIZES, 2 * GB, device, GB if device == "cpu" else 3 * GB // 4)
    assert plan.location == location
    assert (", shared by 4 processes" in str(plan)) is (location != "disk")


def test_shared_tensors_are_the_files_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.arange(5000.0), "b": torch.ones(3, dtype=torch.bfloat16), "c": torch.zeros(0)}, file)
    plain = {name: TensorFile(file).read(name) for name in "abc"}
    monkeypatch.setenv(SHARERS, "2")
    shared = TensorFile(file)
    found = {name: shared.read(name) for name in "abc"}
    assert all(same_bits(found[name], plain[name]) for name in "abc")
    with file.open("r+b") as opened:  # another process would see the same
        opened.seek(shared.stored("a").start)
        opened.write(np.float32(7).tobytes())
    assert found["a"][0] == 7
    before = file.read_bytes()
    found["a"][0] = 3.0
    assert file.read_bytes() == before, "what is written to a tensor stays in this process"


def test_shared_tensors_of_a_file_that_was_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SHARERS, "2")
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.arange(5000.0)}, file)
    shared = TensorFile(file)
    assert shared.tensors
    os.truncate(file, 9000)
    with pytest.raises(UserError, match="is truncated"):
        shared.read("a")


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("device", "kept in memory on cuda (9 GB free); equal tensors are kept once"),
        ("host", "kept in host memory (9 GB free) and streamed to cuda, where they do not fit"),
        ("disk", "read from disk for every candidate, because they do not fit in memory (9 GB free)"),
    ],
)
def test_the_plan_says_what_is_kept_where(location: Any, expected: str) -> None:
    line = str(MemoryPlan("cuda", location, {"base": 1_234_567_890, "b": 12}, 9 * GB))
    assert line == f"checkpoints: base 1.23 GB, b 12 bytes; 1.23 GB in all, {expected}"


def test_free_memory_is_known() -> None:
    assert 0 < memory.free_on_host() < 1 << 50


TENSORS = {
    ("a", "w"): torch.arange(1000.0),
    ("b", "w"): torch.arange(1000.0),
    ("c", "w"): torch.arange(1000.0).flip(0),
    ("c", "v"): torch.arange(1000.0),
}


@pytest.mark.parametrize(("location", "reads"), [("device", 1), ("host", 1), ("disk", 2)])
def test_tensors_are_read_as_the_plan_says(location: Any, reads: int) -> None:
    counter = Counter(lambda *key: TENSORS[key].clone())
    cache = TensorCache(MemoryPlan("cpu", location, {}, 0), counter)
    cache.prefetch([("a", "w")])
    for _ in range(2):
        assert all(torch.equal(cache.tensor(*key), tensor) for key, tensor in TENSORS.items())
    assert counter.calls == reads * len(TENSORS)


def test_equal_tensors_are_kept_once() -> None:
    cache = TensorCache(MemoryPlan("cpu", "device", {}, 0), lambda *key: TENSORS[key].clone())
    found = {key: cache.tensor(*key) for key in TENSORS}
    assert found["a", "w"] is found["b", "w"]
    assert found["a", "w"] is not found["c", "w"]


def test_equal_means_every_bit() -> None:
    zero = torch.zeros(100)
    assert same_bits(zero, zero.clone())
    assert not same_bits(zero, -zero)
    assert not same_bits(zero, zero.bfloat16())
    assert not same_bits(zero, zero.view(10, 10))


# Candidates


def recipe(name: str, seed: int) -> Recipe:
    return Recipe.read(recipe_data(METHODS[name], BASE, TUNED, seed))


@pytest.mark.parametrize("name", ["ties", "linear", "dare_ties"])
def test_where_checkpoints_are_kept_does_not_change_a_candidate(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Engine([BASE, *TUNED], BASE)
    monkeypatch.setattr(memory, "free_on_host", lambda: 0)
    streamed = Engine([BASE, *TUNED], BASE)
    assert (kept.memory.location, streamed.memory.location) == ("device", "disk")
    for engine in (kept, streamed):
        engine.build(recipe(name, 1))
    assert kept.views.keys() == streamed.views.keys()
    assert all(same_bytes(view, streamed.views[tensor]) for tensor, view in kept.views.items())


@pytest.mark.skipif(native_backend.library() is None, reason="there is no C compiler")
def test_a_candidate_is_one_call_of_the_compiled_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, calls = Engine([BASE, *TUNED], BASE), Counter(native_backend.combine)
    monkeypatch.setattr(native_backend, "combine", calls)
    engine.build(recipe("ties", 1))
    assert calls.calls == 1


def test_an_engine_goes_with_its_last_user() -> None:
    engine = Engine([BASE, *TUNED], BASE)
    for name in ("ties", "linear", "della"):
        engine.build(recipe(name, 1))
    views = [
        weakref.ref(engine),
        weakref.ref(engine._merger),
        *map(weakref.ref, engine._merger.tensors._tensors.values()),
    ]
    gc.disable()
    try:
        del engine
        assert [view() for view in views] == [None] * len(views)
    finally:
        gc.enable()


def test_the_engine_says_where_it_keeps_what() -> None:
    plan = Engine([BASE, TUNED[0]], BASE).memory
    assert (plan.device, plan.location, list(plan.checkpoints)) == ("cpu", "device", [BASE, TUNED[0]])
    assert all(count > 0 for count in plan.checkpoints.values())


def nbytes(value: Any) -> int:
    """The bytes of all tensors and arrays that a value refers to."""
    if isinstance(value, Tensor | np.ndarray):
        return value.nbytes
    if isinstance(value, Mapping | list | tuple):
        return sum(map(nbytes, value.values() if isinstance(value, Mapping) else value))
    return nbytes(vars(value)) if hasattr(value, "__dict__") else 0


@pytest.mark.parametrize("name", WITHOUT_TEXT)
def test_the_plan_counts_what_a_method_keeps(name: str) -> None:
    engine = Engine([BASE, *TUNED], BASE, reserve=MemoryReserve([METHODS[name]]))
    engine.build(Recipe.read(recipe_data(METHODS[name], BASE, TUNED, 1, scope="tensor")))
    kept, known = nbytes(engine._merger.statistics), nbytes(engine._merger.tensors._tensors)
    # A few numbers per row are not counted. Counts of small tensors take less than the most that they may.
    assert kept <= engine.memory.statistics + 0.1 * known
    assert engine.memory.statistics <= 3 * kept + 0.1 * known


def test_what_methods_keep_needs_its_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_on_host", lambda: 8 * GB)
    assert plan_memory(SIZES, 2 * GB, "cpu").location == "device"
    plan = plan_memory(SIZES, 2 * GB, "cpu", 3 * GB)
    assert plan.location == "disk"
    assert str(plan).endswith("; statistics take at most 3 GB more")


def test_gradients_need_their_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_on_host", lambda: 8 * GB)
    plan = plan_memory(SIZES, 2 * GB, "cpu", gradients=2 * GB)
    assert plan.location == "disk"
    assert str(plan).endswith("; gradients take 2 GB more")
    engine = Engine([BASE, *TUNED], BASE, reserve=MemoryReserve(gradients=True))
    assert engine.memory.gradients == sum(parameter.nbytes for parameter in engine.model.parameters())


def test_a_merge_says_what_it_holds_in_memory(tmp_path: Path) -> None:
    said: list[str] = []
    merge(recipe("linear", 1), tmp_path / "out", options=MergeOptions(say=said.append))
    assert len(said) == 1
    assert said[0].startswith(f"checkpoints: {Path(TUNED[0]).name} ")
    assert "read from disk tensor by tensor, at most " in said[0]


def test_a_model_with_a_live_model_of_its_own_needs_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [save(tmp_path / f"{n}.safetensors", {"w": tensor((100,), n)}) for n in range(2)]
    monkeypatch.setattr(memory, "free_on_host", lambda: 1600)  # 80 % of it is room for three and a bit of 400 bytes
    reserves = [MemoryReserve(), MemoryReserve(standalone=paths[1:])]
    plans = [Merger(paths, resident=True, reserve=reserve).memory_plan.location for reserve in reserves]
    assert plans == ["device", "disk"]
