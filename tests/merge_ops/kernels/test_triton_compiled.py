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

from mergesearch.merge_ops.kernels.combine import combine_all
from mergesearch.merge_ops.kernels.plans import LinearCombination, Pass, Plan, RankedDrop, SignConsensus, Sparsity

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


@pytest.mark.parametrize("architecture", [75, 90])
@pytest.mark.parametrize("plan", COMPILED.values(), ids=COMPILED.keys())
def test_compiles_for_a_gpu_to_what_rounds_as_the_cpu_does(
    plan: Plan, architecture: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    gpu = IdleGpu(architecture)
    monkeypatch.setattr(triton.runtime.driver, "_active", gpu)
    base, models = inputs((SIZE,), 5, 2)
    mixed = [model.to(dtype) for model, dtype in zip(models, (torch.bfloat16, torch.float16), strict=True)]
    own_copy().combine(Pass(plan, base, mixed, empty(base)))
    assert [given[:3] for given in gpu.launches] == [(-(-SIZE // TILE), 1, 1)]
    (code,) = (file.read_text() for file in tmp_path.rglob("*.ptx"))
    found = set(re.findall(r"\b(?:add|sub|mul|div|fma|mad)(?:\.[a-z]\w*)*\.f(?:16|32|64)(?:x2)?\b", code))
    assert found
    assert found <= ROUNDED
    # Nor may the last compiler make one rounding of a multiplication and an addition.
    settings = [json.loads(file.read_text()) for file in tmp_path.rglob("*.json") if "__grp__" not in file.name]
    assert [found["enable_fp_fusion"] for found in settings] == [False]


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
