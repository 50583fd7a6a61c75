"""Inner products of a gradient with the inputs of a merge: by every backend, for all dtypes, however they lie."""

import pytest
import torch
from torch import Tensor

from mergesearch.merge_ops.kernels import native_backend, threads
from mergesearch.merge_ops.kernels.inner_products import CPU_BLOCK, inner_products

from ...tolerances import assert_close
from ..helpers import inputs, tensor

SIZE = 3 * threads.SPAN + 77
IN_A_ROW = 100
"""More operations in sequence than float32 sums have, before they are added in float64."""


@pytest.fixture(params=["compiled", "torch"], autouse=True)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "torch":
        monkeypatch.setattr(native_backend, "library", lambda: None)


def expected(vector: Tensor, base: Tensor | None, models: list[Tensor], relative: bool) -> tuple[Tensor, float]:
    """In float64, and the largest sum of magnitudes."""
    origin = torch.zeros_like(vector) if base is None else base
    each = [origin.double(), *(model.double() - relative * origin.double() for model in models)]
    terms = torch.stack([vector.double() * x for x in each]).flatten(1)
    return terms.sum(1), float(terms.abs().sum(1).max())


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_products_are_those_of_float64(dtype: torch.dtype, relative: bool) -> None:
    base, models = inputs((SIZE,), 5, 3, dtype)
    vector = tensor((SIZE,), 11, dtype)
    wanted, terms = expected(vector, base, models, relative)
    precision = torch.float64 if dtype == torch.float64 else torch.float32
    operations = CPU_BLOCK if dtype == torch.float64 else IN_A_ROW
    assert_close(inner_products(vector, base, models, relative), wanted, operations, terms, precision)


def test_gradients_may_have_another_dtype_and_gaps() -> None:
    base, models = inputs((64, 30), 5, 2, torch.bfloat16)
    vector = tensor((30, 64), 3).t()
    wanted, terms = expected(vector, base, models, True)
    assert_close(inner_products(vector, base, models, True), wanted, IN_A_ROW, terms, torch.float32)


def test_without_a_base_its_product_is_zero() -> None:
    models = inputs((5, 7), 5, 2)[1]
    vector = tensor((5, 7), 3)
    wanted, terms = expected(vector, None, models, False)
    found = inner_products(vector, None, models, False)
    assert found[0] == 0
    assert_close(found, wanted, IN_A_ROW, terms, torch.float32)
    assert inner_products(torch.empty(0), None, [torch.empty(0)], False).tolist() == [0, 0]


@pytest.mark.usefixtures("two_threads")
def test_threads_do_not_change_sums() -> None:
    base, models = inputs((SIZE,), 5, 3)
    vector = tensor((SIZE,), 3)
    two = inner_products(vector, base, models, True)
    torch.set_num_threads(1)
    assert torch.equal(inner_products(vector, base, models, True), two)
