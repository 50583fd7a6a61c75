"""The Triton kernels compiled for a GPU, which needs none, and their results on one."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from mergesearch.merge_ops.kernels.combine import combine_all
from mergesearch.merge_ops.kernels.numbers import Kind, Numbers
from mergesearch.merge_ops.kernels.plans import LinearCombination, Pass, Plan, RankedDrop, SignConsensus, Sparsity
from mergesearch.merge_ops.kernels.ranking import Layout, Ranges, Ranking

from ..helpers import inputs
from .test_combine import DTYPES, PLANS, by_torch, case, empty, same
from .triton_cases import SIZE, TILE, consensus, own_copy, skip_where_triton_is_not_made

skip_where_triton_is_not_made()

# ruff: noqa: E402
import triton
from triton.backends.compiler import GPUTarget

ROUNDED = {f"{name}{rounding}.f32" for name in ("add", "sub", "mul") for rounding in ("", ".rn")} | {"div.rn.f32"}
"""Operations that round once, to nearest, and take no small number for zero."""


class IdleGpu:
    """Stands for Triton's driver of a GPU, which is given kernels and does not run them."""

    def __init__(self, architecture: int) -> None:
        self.launches: list[tuple[Any, ...]] = []
        self._target = GPUTarget("cuda", architecture, 32)
        self.utils = SimpleNamespace(
            get_device_properties=lambda _: {"max_shared_mem": 1 << 16},
            load_binary=lambda *_: (None, 0, 32, 0, 1024),
        )

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _: int) -> int:
        return 0

    def launcher_cls(self, *_: Any) -> Callable[..., None]:
        return lambda *given: self.launches.append(given)


COMPILED: dict[str, Plan] = {
    "linear": LinearCombination((0.3, 0.6), base=0.1, task_vectors=True),
    "thinned": SignConsensus((0.3, 0.6), (Sparsity(keep=0.5),) * 2),
    "all": consensus(2, elect=True, normalize=True, vote="change", least_spread=0.1),
}
"""Together they need all of the kernels' code."""


@pytest.fixture(params=[75, 90])
def gpu(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> IdleGpu:
    """A GPU for which kernels are compiled into the folder of the test."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    idle = IdleGpu(request.param)
    monkeypatch.setattr(triton.runtime.driver, "_active", idle)
    return idle


@pytest.fixture
def mixed() -> tuple[Tensor, list[Tensor]]:
    """Inputs of several dtypes."""
    base, models = inputs((SIZE,), 5, 2)
    return base, [model.to(dtype) for model, dtype in zip(models, (torch.bfloat16, torch.float16), strict=True)]


def assert_rounds_as_the_cpu_does(gpu: IdleGpu, folder: Path) -> None:
    assert [given[:3] for given in gpu.launches] == [(-(-SIZE // TILE), 1, 1)]
    (code,) = (file.read_text() for file in folder.rglob("*.ptx"))
    found = set(re.findall(r"\b(?:add|sub|mul|div|fma|mad)(?:\.[a-z]\w*)*\.f(?:16|32|64)(?:x2)?\b", code))
    assert found
    assert found <= ROUNDED
    # Nor may the last compiler make one rounding of a multiplication and an addition.
    settings = [json.loads(file.read_text()) for file in folder.rglob("*.json") if "__grp__" not in file.name]
    assert [found["enable_fp_fusion"] for found in settings] == [False]


@pytest.mark.parametrize("plan", COMPILED.values(), ids=COMPILED.keys())
def test_compiles_for_a_gpu_to_what_rounds_as_the_cpu_does(
    plan: Plan, gpu: IdleGpu, mixed: tuple[Tensor, list[Tensor]], tmp_path: Path
) -> None:
    own_copy().combine(Pass(plan, *mixed, empty(mixed[0])))
    assert_rounds_as_the_cpu_does(gpu, tmp_path)


@pytest.mark.parametrize("kind", ["magnitude", "spread", "importance"])
def test_counts_compile_too(kind: Kind, gpu: IdleGpu, mixed: tuple[Tensor, list[Tensor]], tmp_path: Path) -> None:
    base, models = mixed
    numbers = Numbers(kind, base, models if kind == "spread" else models[:1], base if kind == "importance" else None)
    digits = Layout(torch.float32, numbers.signed)
    own_copy().count_keys(numbers, *numbers.flat(), digits.whole)
    assert_rounds_as_the_cpu_does(gpu, tmp_path)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_ranks_on_a_gpu_are_those_of_the_cpu(dtype: torch.dtype) -> None:
    base, models = inputs((SIZE,), 5, 3, dtype)
    every = [Numbers("magnitude", base, models[:1]), Numbers("spread", base, models)]
    for numbers in every:
        found, known = (Ranking(lambda on=on: [on], Ranges()) for on in (numbers, moved(numbers)))
        for rank in (1, 700, SIZE // 2, SIZE):
            assert found.largest(rank) == known.largest(rank)
            assert found.sum_from(found.largest(rank)) == known.sum_from(found.largest(rank))


def moved(numbers: Numbers) -> Numbers:
    """The numbers on the GPU."""
    return replace(numbers, base=numbers.base.cuda(), models=[model.cuda() for model in numbers.models])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bits_on_a_gpu_are_those_of_the_cpu(dtype: torch.dtype) -> None:
    base, models = case(dtype)
    on_device = base.cuda(), [model.cuda() for model in models]
    passes = [Pass(on_gpu(plan), *on_device, empty(on_device[0])) for plan in PLANS.values()]
    combine_all(passes)
    for plan, one in zip(PLANS.values(), passes, strict=True):
        assert same(one.out.cpu(), by_torch(plan, base, models))


def on_gpu(plan: Plan) -> Plan:
    """The plan with its tables on the GPU."""
    return replace(plan, sparsity=tuple(map(_on_gpu, plan.sparsity))) if isinstance(plan, SignConsensus) else plan


def _on_gpu(sparsity: Sparsity) -> Sparsity:
    found = sparsity.ranked
    tables = [table.cuda() for table in (found.places, found.kept, found.factors)] if found else []
    return replace(sparsity, ranked=RankedDrop(*tables)) if found else sparsity
