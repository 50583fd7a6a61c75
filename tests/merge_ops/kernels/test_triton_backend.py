"""The Triton kernels against plain torch, in Triton's interpreter: it needs no GPU."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from mergesearch.merge_ops.kernels.plans import Plan, Sparsity

from .test_combine import DTYPES, PLANS, by_torch, case, empty, plans, same

# numpy's, of numbers that overflow as they should
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
SIZE = 2 * 1024 + 77


@pytest.fixture(scope="module")
def kernels() -> Iterator[Any]:
    pytest.importorskip("triton")
    with pytest.MonkeyPatch.context() as patch:
        # Read when the kernels are imported.
        patch.setenv("TRITON_INTERPRET", "1")
        from mergesearch.merge_ops.kernels import triton_backend as kernels_triton

        yield kernels_triton


@plans
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bits_are_those_of_plain_torch(kernels: Any, plan: Plan, dtype: torch.dtype) -> None:
    base, models = case(dtype, SIZE)
    out = empty(base)
    assert kernels.serves([plan], [base, *models, out])
    kernels.combine([plan], base, models, [out])
    assert same(out, by_torch(plan, base, models))


@pytest.mark.parametrize("names", [("linear", "slerp", "nothing"), ("sum", "mean", "elected")], ids=str)
def test_several_plans_at_once(kernels: Any, names: tuple[str, ...]) -> None:
    base, models = case(torch.bfloat16, SIZE)
    outs = [empty(base) for _ in names]
    kernels.combine([PLANS[name] for name in names], base, models, outs)
    assert all(same(out, by_torch(PLANS[name], base, models)) for name, out in zip(names, outs, strict=True))


def test_without_a_base_and_without_elements(kernels: Any) -> None:
    _, models = case(torch.float32, SIZE)
    out, nothing = torch.empty(SIZE), torch.empty(0)
    kernels.combine([PLANS["linear"]], None, models, [out])
    assert same(out, by_torch(PLANS["linear"], models[0], models))
    kernels.combine([PLANS["linear"]], None, [nothing] * 3, [nothing])


def test_what_the_kernels_leave_to_torch(kernels: Any) -> None:
    wide = torch.empty(3, dtype=torch.float64)
    assert not kernels.serves([PLANS["linear"]], [wide])
    assert not kernels.serves([PLANS["linear"], PLANS["sum"]], [torch.empty(3)])


def test_mask_words_hold_the_whole_key(kernels: Any) -> None:
    grains, low, high = kernels._mask_words(Sparsity(keep=0.5, key=0xFFFFFFFE80000001))
    assert (grains, low % (1 << 32), high % (1 << 32)) == (1 << 15, 0x80000001, 0xFFFFFFFE)
