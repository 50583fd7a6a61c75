"""The Triton kernels against plain torch, in Triton's interpreter: it needs no GPU."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mergesearch.merge_ops.kernels import combine as combine_module
from mergesearch.merge_ops.kernels import selection, torch_backend
from mergesearch.merge_ops.kernels.masks import draws
from mergesearch.merge_ops.kernels.numbers import Digit, Numbers
from mergesearch.merge_ops.kernels.plans import Elementwise, LinearCombination, Pass, Plan, SignConsensus, Sparsity
from mergesearch.merge_ops.kernels.selection import Counts
from mergesearch.merge_ops.methods import METHODS

from ..helpers import EVERY_METHOD, Counter, case_of, decided, inputs, ours, same_bytes, tensor
from .test_combine import DTYPES, PLANS, WEIGHTS, by_torch, case, empty, plans, same
from .test_ranking import EDGES
from .triton_cases import SIZE, TILE, consensus, own_copy, skip_where_triton_is_not_made

skip_where_triton_is_not_made()

# ruff: noqa: E402
import triton
import triton.language as tl

# numpy's, of numbers that overflow as they should
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
FORMS = {
    form.__name__: [plan for plan in PLANS.values() if isinstance(plan, form)]
    for form in (LinearCombination, SignConsensus)
}


@pytest.fixture(scope="module")
def kernels() -> ModuleType:
    """The kernels as the interpreter runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        return own_copy()


def interpreted(kernels: ModuleType, plan: Plan, base: Tensor | None, models: Sequence[Tensor]) -> Tensor:
    tensor_pass = Pass(plan, base, models, empty(models[0]))
    assert kernels.serves(tensor_pass)
    kernels.combine(tensor_pass)
    return tensor_pass.out


@plans
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bits_are_those_of_plain_torch(kernels: ModuleType, plan: Plan, dtype: torch.dtype) -> None:
    base, models = case(dtype, SIZE)
    assert same(interpreted(kernels, plan, base, models), by_torch(plan, base, models))


@pytest.mark.parametrize("chosen", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("size", [0, 1, 2, 31, TILE - 1, TILE, TILE + 1, 5 * TILE + 1])
def test_any_size(kernels: ModuleType, chosen: list[Plan], size: int) -> None:
    base, models = inputs((size,), 5, 3, torch.bfloat16)
    for plan in chosen:
        assert same_bytes(interpreted(kernels, plan, base, models), by_torch(plan, base, models))


@pytest.mark.parametrize("count", [1, 2, 4, 7, 11])
def test_any_number_of_models(kernels: ModuleType, count: int) -> None:
    base, models = inputs((SIZE,), 3, count)
    settings: dict[str, Any] = {"elect": True, "normalize": True}
    chosen: list[Plan] = [
        plain := consensus(count, lambda_=0.8),
        consensus(count, vote="count", **settings),
        consensus(count, vote="change", least_spread=0.02, **settings),
        LinearCombination(plain.weights, base=0.1, task_vectors=True),
    ]
    for plan in chosen:
        assert same_bytes(interpreted(kernels, plan, base, models), by_torch(plan, base, models))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@plans
def test_edges(kernels: ModuleType, plan: Plan, dtype: torch.dtype) -> None:
    """Zeros of both signs, the smallest numbers, the largest, and magnitudes at a threshold: bit by bit."""
    info = torch.finfo(dtype)
    tiny = info.smallest_normal
    values = [-0.0, 0.0, tiny, -tiny, tiny * info.eps, 0.05, -0.2, 0.4, info.max / 8, -info.max / 8, 1.0]
    every = torch.tensor(values, dtype=torch.float64).to(dtype)
    count = every.numel()
    base = every.repeat_interleave(count * count)
    models = [every.repeat(count * count), every.repeat_interleave(count).repeat(count), -base]
    out = interpreted(kernels, plan, base, models)
    expected = by_torch(plan, base, models)
    assert not expected.isnan().any()
    assert same_bytes(out, expected)


@pytest.mark.parametrize("out_dtype", DTYPES, ids=str)
@plans
def test_inputs_of_several_dtypes(kernels: ModuleType, plan: Plan, out_dtype: torch.dtype) -> None:
    base, models = case(torch.float32, SIZE)
    mixed = [model.to(dtype) for model, dtype in zip(models, DTYPES, strict=True)]
    out, plain = (torch.empty(SIZE, dtype=out_dtype) for _ in range(2))
    kernels.combine(Pass(plan, base, mixed, out))
    torch_backend.combine(Pass(plan, base, mixed, plain), 1 << 14)
    assert same(out, plain)


@pytest.mark.parametrize("task_vectors", [False, True])
def test_without_a_base(kernels: ModuleType, task_vectors: bool) -> None:
    _, models = case(torch.float32, SIZE)
    plan, plain = LinearCombination(WEIGHTS, base=0.5, task_vectors=task_vectors), torch.empty(SIZE)
    torch_backend.combine(Pass(plan, None, models, plain), 1 << 14)
    assert same(interpreted(kernels, plan, None, models), plain)


def test_what_the_kernels_leave_to_torch(kernels: ModuleType) -> None:
    narrow, wide = torch.empty(3), torch.empty(3, dtype=torch.float64)
    linear, function = PLANS["linear"], Elementwise(lambda _, xs, __: xs[0])
    assert kernels.serves(Pass(linear, narrow, [narrow] * 3, narrow))
    assert not kernels.serves(Pass(linear, narrow, [narrow, narrow, wide], narrow))
    assert not kernels.serves(Pass(linear, narrow, [narrow] * 3, wide))
    assert not kernels.serves(Pass(function, narrow, [narrow] * 3, narrow))


def test_mask_words_hold_the_whole_key(kernels: ModuleType) -> None:
    kept, low, high = kernels._mask_words(Sparsity(keep=0.5, key=0xFFFFFFFE80000001))
    assert (kept, low % (1 << 32), high % (1 << 32)) == (0, 0x80000001, 0xFFFFFFFE)


def write_draws(out: tl.tensor, start: tl.tensor, low: tl.tensor, high: tl.tensor, draw: tl.constexpr) -> None:
    """A kernel of one block, of 128 places."""
    places = start + tl.arange(0, 128).to(tl.int64)
    tl.store(out + tl.arange(0, 128), draw(places, low, high).to(tl.int16))


@pytest.mark.parametrize("key", [0, 0xFFFFFFFE80000001, 0x9E3779B97F4A7C15])
@pytest.mark.parametrize("start", [0, 2, (1 << 32) - 64, (1 << 33) - 64, 3 * (1 << 33) - 2])
def test_draws_are_those_of_the_masks(
    kernels: ModuleType, monkeypatch: pytest.MonkeyPatch, key: int, start: int
) -> None:
    """At places that no tensor of a test reaches, too, where masks go on under another key."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    _, low, high = kernels._mask_words(Sparsity(key=key))
    out = torch.empty(128, dtype=torch.int16)
    triton.jit(write_draws)[(1,)](out, start, low, high, draw=kernels._draws)
    pieces = [draws(key, start + i, 2, out.device) for i in range(0, 128, 2)]
    assert torch.equal(out, torch.cat(pieces))


@pytest.fixture
def on_triton(kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Counter:
    """Sends to the kernels what is sent there on a GPU; counts what goes to plain torch all the same."""
    plain = Counter(torch_backend.combine)
    monkeypatch.setattr(combine_module, "_is_for_triton", lambda _: True)
    monkeypatch.setattr("mergesearch.merge_ops.kernels.triton_backend", kernels, raising=False)
    monkeypatch.setattr(combine_module.torch_backend, "combine", plain)
    return plain


@pytest.mark.parametrize("name", EVERY_METHOD)
def test_every_plan_of_a_method_that_is_no_function_runs_on_the_kernels(on_triton: Counter, name: str) -> None:
    cases = [case_of(METHODS[name], (9, 55), seed, torch.bfloat16) for seed in range(4)]
    functions = [isinstance(decided(METHODS[name], one)[0], Elementwise) for one in cases]
    found = [ours(METHODS[name], one) for one in cases]
    assert on_triton.calls == sum(functions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(combine_module, "_is_for_triton", lambda _: False)
        assert all(same_bytes(out, ours(METHODS[name], one)) for out, one in zip(found, cases, strict=True))


def test_only_functions_go_to_torch(on_triton: Counter) -> None:
    base, models = inputs((SIZE,), 5, 3)
    function = Elementwise(lambda _, xs, start: xs[0] * 2 + start % 2)
    passes = [
        Pass(plan, base, models, empty(base)) for plan in (function, PLANS["linear"], PLANS["ranked"], PLANS["slerp"])
    ]
    combine_module.combine_all(passes)
    assert on_triton.calls == 1
    assert all(same_bytes(one.out, by_torch(one.plan, base, models)) for one in passes)


ROOTS: dict[str, Any] = {
    "magnitude": Digit(15, 1 << 16, (0,)),
    "spread": Digit(15, 1 << 16, (0,)),
    "importance": Digit(16, 1 << 16, (-(1 << 15),)),
}


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
@pytest.mark.parametrize("kind", ROOTS)
@pytest.mark.parametrize("shape", [(0,), (1,), (35, 60)], ids=str)
def test_counts_are_those_of_the_cpu(
    kernels: ModuleType, kind: Any, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    base, models = inputs(shape, 5, 3 if kind == "spread" else 1, dtype)
    base.view(-1)[: len(EDGES)] = torch.tensor(EDGES[: base.numel()]).to(dtype)
    models[0].view(-1)[:1000] = base.view(-1)[:1000]
    numbers = Numbers(kind, base, models, tensor(shape[:-1] or (1,), 3) if kind == "importance" else None)
    root = ROOTS[kind]
    (whole,) = selection.count_keys(numbers, root, torch.float32)
    fullest = int(whole.values[(whole.counts * (whole.values != 0)).argmax()]) if numbers.size else 0
    for digit in (root, Digit(0, 1 << root.shift, (fullest << root.shift, 0))):
        wanted = selection.count_keys(numbers, digit, torch.float32)
        counts, lows = kernels.count_keys(numbers, *numbers.flat(), digit)
        if digit is root:
            counts[0, -root.firsts[0]] += numbers.size - counts.sum()
        for found, known in zip(Counts.of(digit, counts, lows), wanted, strict=True):
            for column in ("values", "counts", "lows"):
                assert np.array_equal(getattr(found, column), getattr(known, column))
