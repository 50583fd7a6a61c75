"""Compiled kernels and plain torch give the same bits, on any number of threads, for one tensor or several."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mergesearch.merge_ops.kernels import native_backend, threads, torch_backend
from mergesearch.merge_ops.kernels.combine import combine, combine_all
from mergesearch.merge_ops.kernels.plans import (
    PADDING,
    Elementwise,
    LinearCombination,
    Pass,
    Plan,
    RankedDrop,
    SignConsensus,
    Sparsity,
)
from mergesearch.merge_ops.kernels.rowwise import combination
from mergesearch.merge_ops.methods import METHODS
from mergesearch.merge_ops.statistics.gram import gram

from ...tolerances import assert_close
from ..helpers import case_of, decided, inputs, same_bytes

SIZE = 3 * threads.SPAN + 77
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
THIN = (
    Sparsity(threshold=0.2, scale=1.3),
    Sparsity(keep=0.3, key=0x9E3779B97F4A7C15, scale=1 / 0.3),
    Sparsity(threshold=0.05, ceiling=0.4, keep=0.6, key=7),
)
WEIGHTS = (0.7, -0.4, 0.9)
RANKED = tuple(
    Sparsity(
        key=key,
        ranked=RankedDrop(
            torch.randint(-100, 100, (SIZE + PADDING,), generator=torch.Generator().manual_seed(key)).short() & 0x7F,
            torch.arange(-20000, 20000, 300, dtype=torch.int32),
            torch.linspace(1, 3, 134),
        ),
    )
    for key in range(3)
)
PLANS: dict[str, Plan] = {
    "linear": LinearCombination((0.3, 0.0, 0.6)),
    "slerp": LinearCombination((0.31, 0.2, -0.4), base=0.73),
    "task vectors": LinearCombination((0.3, -0.5, 0.0), base=1.0, task_vectors=True),
    "nothing": LinearCombination((0.0, 0.0, 0.0)),
    "sum": SignConsensus(WEIGHTS, THIN, lambda_=0.7),
    "elected": SignConsensus(WEIGHTS, THIN, elect=True, lambda_=1.1),
    "mean": SignConsensus(WEIGHTS, THIN, elect=True, normalize=True, lambda_=0.9),
    "ties": SignConsensus(WEIGHTS, tuple(Sparsity(threshold=0.1 * i) for i in range(3)), elect=True, normalize=True),
    "dare_ties": SignConsensus(WEIGHTS, tuple(Sparsity(keep=0.3 * i + 0.2, key=i) for i in range(3)), elect=True),
    "no sparsity": SignConsensus((1.0, 1.0, 1.0), (Sparsity(),) * 3, elect=True, normalize=True),
    "weights of no sum": SignConsensus((0.1, 0.6, -0.7), THIN, elect=True, normalize=True),
    "by count": SignConsensus(WEIGHTS, THIN, elect=True, normalize=True, vote="count"),
    "spread": SignConsensus(
        (0.2, 0.3, 0.5), (Sparsity(),) * 3, elect=True, normalize=True, vote="change", least_spread=0.3
    ),
    "ranked": SignConsensus(WEIGHTS, RANKED, elect=True, normalize=True),
    "ranked sum": SignConsensus(WEIGHTS, (RANKED[0], *THIN[:2]), lambda_=0.7),
    "all dropped": SignConsensus(WEIGHTS, (Sparsity(threshold=float("inf")),) * 3, elect=True, normalize=True),
}
WITH_FUNCTIONS = (
    *("consensus_ta", "magmax", "ram", "ramplus_tl", "train_difference", "nearswap", "arcee_fusion", "cosine_add"),
    *("nuslerp", "model_stock", "tsv", "iso_c", "fisher", "regmean"),
)
"""The methods whose plans are functions, for some parameters or shapes."""
plans = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())
compiled = pytest.mark.skipif(native_backend.library() is None, reason="there is no C compiler")


def case(dtype: torch.dtype, size: int = SIZE) -> tuple[Tensor, list[Tensor]]:
    """Inputs with values for which kernels might differ."""
    base, models = inputs((size,), 5, 3, dtype)
    odd = torch.tensor([-0.0, 0.0, 1e-40, -1e-40, 3e38, float("inf"), float("nan")]).to(dtype)
    base[:7], models[0][3:10], models[2][5:12] = odd, odd, odd
    return base, models


def empty(base: Tensor) -> Tensor:
    return torch.full_like(base, 7.0)


def by_torch(plan: Plan, base: Tensor, models: Sequence[Tensor], block: int = 1 << 14) -> Tensor:
    out = empty(base)
    torch_backend.combine(Pass(plan, base, models, out), block)
    return out


def same(a: Tensor, b: Tensor) -> bool:
    """Whether all bits are the same, except those of NaN."""
    return torch.equal(a.isnan(), b.isnan()) and same_bytes(a.nan_to_num(7.0), b.nan_to_num(7.0))


@compiled
@plans
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_compiled_kernels_give_the_bits_of_plain_torch(plan: Plan, dtype: torch.dtype) -> None:
    base, models = case(dtype)
    out = empty(base)
    native_backend.combine([Pass(plan, base, models, out)])
    assert same(out, by_torch(plan, base, models))


@compiled
@pytest.mark.parametrize("name", WITH_FUNCTIONS)
@pytest.mark.parametrize("shape", [(SIZE,), (67, 45), (40, 300), (7, 3, 5), (41, 1), ()], ids=str)
def test_compiled_functions_give_the_bits_of_plain_torch(name: str, shape: tuple[int, ...]) -> None:
    for seed, dtype in enumerate(DTYPES):
        one = case_of(METHODS[name], shape, seed, dtype)
        plan, base = decided(METHODS[name], one)
        if not isinstance(plan, Elementwise):
            continue
        one_pass = Pass(plan, base, one.models, torch.empty_like(one.base))
        assert native_backend.serves(one_pass)
        native_backend.combine([one_pass])
        models, plain = [model.view(-1) for model in one.models], torch.empty_like(one.base).view(-1)
        torch_backend.combine(Pass(plan, base if base is None else base.view(-1), models, plain), 1000)
        assert same_bytes(one_pass.out.view(-1), plain)


@compiled
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("task_vectors", [False, True])
@pytest.mark.parametrize("shape", [(5, 70, 40), (3, 33, 7), (4, 90, 1)], ids=str)
def test_factors_of_vectors_along_any_axis(axis: int, task_vectors: bool, shape: tuple[int, ...]) -> None:
    base, models = inputs(shape, 5, 2, torch.bfloat16)
    others = [size for i, size in enumerate(shape) if i != axis]
    of_models, of_base = (
        np.random.default_rng(0).normal(size=(2, *others)),
        np.random.default_rng(1).normal(size=others),
    )
    plan = combination([of_models[0].ravel(), of_models[1].ravel()], shape, axis, of_base.ravel(), task_vectors)
    out, plain = torch.empty(shape), torch.empty(shape)
    native_backend.combine([Pass(plan, base, models, out)])
    torch_backend.combine(Pass(plan, base.view(-1), [model.view(-1) for model in models], plain.view(-1)), 1 << 14)
    assert same_bytes(out, plain)
    wide = [model.double() - (base.double() if task_vectors else 0) for model in models]
    own = base.double() * (1 if task_vectors else torch.from_numpy(of_base).unsqueeze(axis))
    expected = own + sum(torch.from_numpy(f).unsqueeze(axis) * x for f, x in zip(of_models, wide, strict=True))
    assert_close(out, expected.float(), operations=8)


@compiled
@pytest.mark.usefixtures("two_threads")
@plans
def test_threads_do_not_change_a_merge(plan: Plan) -> None:
    base, models = case(torch.bfloat16)
    two, plain = empty(base), by_torch(plan, base, models)
    combine(plan, base, models, two)
    torch.set_num_threads(1)
    one = empty(base)
    combine(plan, base, models, one)
    assert same(one, two)
    assert same(one, plain)


@plans
@pytest.mark.parametrize("block", [2, 998, 1 << 20])
def test_blocks_do_not_change_a_merge(plan: Plan, block: int) -> None:
    base, models = case(torch.float32, 3001)
    assert same(by_torch(plan, base, models, block), by_torch(plan, base, models))


def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_backend, "library", lambda: None)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("prepare", [lambda _: None, without_compiler], ids=["compiled", "torch"])
def test_tensors_combined_at_once_are_those_combined_alone(
    prepare: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(monkeypatch)
    function = Elementwise(lambda _, xs, start: xs[0] * 2 + start % 2)
    chosen, passes, alone = [*PLANS.values(), function], [], []
    for size in (0, 1, 31, 32, 33, 1025, threads.SPAN, threads.SPAN + 1, SIZE):
        for dtype in (*DTYPES, torch.float64):
            base, models = inputs((size,), 5, 3, dtype)
            for plan in chosen[size % 3 :: 3]:
                passes.append(Pass(plan, base, models, empty(base)))
                alone.append(by_torch(plan, base, models))
    combine_all(passes)
    assert all(same(one.out, out) for one, out in zip(passes, alone, strict=True))


@compiled
@pytest.mark.parametrize("shift", [1, 8, 16])
@plans
def test_where_a_tensor_lies_in_memory_does_not_matter(plan: Plan, shift: int) -> None:
    base, models = case(torch.bfloat16, 3001)
    room = torch.full((3001 + shift + 40,), 7.0, dtype=torch.bfloat16)
    out, (first, *others) = room[shift : shift + 3001], models
    combine(plan, base, [torch.cat([first[:1], first])[1:], *others], out)
    assert same(out, by_torch(plan, base, models))
    assert (room[:shift] == 7).all()
    assert (room[shift + 3001 :] == 7).all()


@compiled
def test_inputs_of_several_dtypes() -> None:
    base, models = case(torch.float32, 3001)
    mixed = [model.to(dtype) for model, dtype in zip(models, DTYPES, strict=True)]
    for plan in PLANS.values():
        for dtype in DTYPES:
            out, plain = (torch.empty(3001, dtype=dtype) for _ in range(2))
            native_backend.combine([Pass(plan, base, mixed, out)])
            torch_backend.combine(Pass(plan, base, mixed, plain), 1 << 14)
            assert same(out, plain)


def test_outputs_that_are_not_contiguous() -> None:
    base, models = inputs((9, 55), 1, 3)
    passes = [Pass(PLANS[name], base, models, torch.empty(55, 9).t()) for name in ("linear", "mean")]
    combine_all(passes)
    for one in passes:
        alone = torch.empty(9, 55)
        combine(one.plan, base, models, alone)
        assert torch.equal(alone, one.out)


@compiled
def test_a_plan_of_too_few_models_is_refused() -> None:
    base, models = inputs((9,), 1, 3)
    with pytest.raises(ValueError, match="longer"):
        combine(LinearCombination((1.0, 2.0)), base, models, torch.empty(9))


def test_inputs_with_gaps_in_memory() -> None:
    base, models = inputs((2002,), 1, 3)
    out, packed = torch.empty(1001), torch.empty(1001)
    gaps, (first, *_) = base[::2], models
    assert not gaps.is_contiguous()
    combine(PLANS["mean"], gaps, [model[1::2] for model in models], out)
    combine(PLANS["mean"], gaps.clone(), [model[1::2].clone() for model in models], packed)
    assert torch.equal(out, packed)
    assert gram([gaps, first[::2]]) == gram([gaps.clone(), first[::2].clone()])


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("prepare", [lambda _: None, without_compiler], ids=["compiled", "torch"])
def test_threads_do_not_change_sums(
    prepare: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(monkeypatch)
    base, models = inputs((SIZE,), 5, 3)
    two = gram(models, base)
    torch.set_num_threads(1)
    assert gram(models, base) == two
    deltas = torch.stack([model.double() - base.double() for model in models])
    # On the grid of the inputs, every product and every sum is exact.
    assert torch.equal(torch.tensor(two, dtype=torch.float64), deltas @ deltas.T)


def test_scales_that_keep_the_norm_do_not_depend_on_threads() -> None:
    base, models = inputs((SIZE,), 5, 3)
    plan = SignConsensus(WEIGHTS, tuple(Sparsity(keep=0.4, key=i, match_l1=True) for i in range(3)))
    outs = [empty(base), empty(base)]
    for count, out in enumerate(outs):
        torch.set_num_threads(count + 1)
        combine(plan, base, models, out)
    torch.set_num_threads(1)
    assert same(*outs)


@pytest.mark.usefixtures("two_threads")
def test_an_exception_in_a_thread_is_raised() -> None:
    def fail(start: int, end: int) -> None:
        raise MemoryError(start, end)

    with pytest.raises(MemoryError):
        threads.run_spans(SIZE, fail)


def test_without_a_compiler_there_is_no_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find = native_backend.library.__wrapped__
    monkeypatch.setenv("CC", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert find() is None
    monkeypatch.delenv("CC")
    monkeypatch.setenv("MERGESEARCH_NATIVE", "0")
    assert find() is None


@pytest.mark.usefixtures("two_threads")
def test_jobs_run_on_threads_that_use_one_each() -> None:
    def job(number: int) -> tuple[int, int]:
        threads.run_spans(SIZE, lambda *_: None)
        return number, torch.get_num_threads()

    assert threads.run_jobs([partial(job, number) for number in range(9)]) == [(number, 1) for number in range(9)]
    assert torch.get_num_threads() == 2
    with pytest.raises(ZeroDivisionError):
        threads.run_jobs([partial(divmod, 1, 0)] * 3)
    assert torch.get_num_threads() == 2
    assert threads.run_jobs([]) == []


LARGEST = {torch.float32: 0x7F7FFFFF, torch.bfloat16: 0x7F7F7FFF, torch.float16: 0x477FEFFF}
"""The bits of the largest float32 that does not become infinite."""


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
def test_outputs_that_are_finite_are_known(dtype: torch.dtype) -> None:
    """One element is as large as it may be, or one larger, wherever in a tensor it is."""
    copy, values = LinearCombination((1.0,)), torch.linspace(-3, 3, 2 * threads.SPAN + 7)
    for place in (0, 17, 31, threads.SPAN, len(values) - 9, len(values) - 1):
        for sign in (1, -1):
            largest = sign * torch.tensor(LARGEST[dtype], dtype=torch.int32).view(torch.float32)
            for extreme in (largest, largest.nextafter(largest * torch.inf), torch.tensor(torch.nan)):
                values[place] = extreme
                out = torch.empty(len(values), dtype=dtype)
                known = combine_all([Pass(copy, None, [values], out)])
                assert bool(known) == bool(out.isfinite().all()) == (extreme is largest)
        values[place] = 0


@compiled
@plans
def test_every_plan_tells_what_is_not_finite(plan: Plan) -> None:
    """Of 3,001 elements one is NaN in all inputs; no output that is not finite is taken for one that is."""
    base, models = inputs((3001,), 5, 3)
    for place in (5, 3000):
        spoilt = [tensor.clone().index_fill_(0, torch.tensor([place]), torch.nan) for tensor in (base, *models)]
        passes = [Pass(plan, spoilt[0], spoilt[1:], torch.empty(3001)), Pass(plan, base, models, torch.empty(3001))]
        known = [id(out) for out in combine_all(passes)]
        assert [id(one.out) in known for one in passes] == [bool(one.out.isfinite().all()) for one in passes]
