"""Statistics of one tensor's inputs: exact, computed once, cached."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

from mergesearch.merge_ops.kernels import native_backend
from mergesearch.merge_ops.kernels.rowwise import row_grams
from mergesearch.merge_ops.kernels.selection import changes
from mergesearch.merge_ops.methods import BASE
from mergesearch.merge_ops.statistics import gram as grams
from mergesearch.merge_ops.statistics import tensor_statistics as module
from mergesearch.merge_ops.statistics.gram import gram
from mergesearch.merge_ops.statistics.tensor_statistics import Cache, InputTensor, TensorStatistics

from ...tolerances import close, tolerance
from ..helpers import Counter, inputs, tensor


def dot(a: Tensor, b: Tensor) -> float:
    return gram([a, b])[0][1]


def test_dot_is_summed_in_float64() -> None:
    """Sums of products that float32 cannot represent, compared with exact fractions."""
    a, b = tensor((3 * 1000 + 7,), 1) * 1e4, tensor((3 * 1000 + 7,), 2)
    a[0], b[0], a[1], b[1] = 1e6, 1e6, -1e6, 1e6
    exact = float(sum(Fraction(x) * Fraction(y) for x, y in zip(a.tolist(), b.tolist(), strict=True)))
    terms = float((a.double() * b.double()).abs().sum())
    assert dot(a, b) == close(exact, len(a), magnitude=terms)
    assert tolerance(len(a), magnitude=terms) < 1e-4 * abs(exact) < tolerance(1, torch.float32, terms)


def test_dot_of_several_blocks_and_strides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grams, "BLOCK", 64)
    a, b = tensor((31, 17), 1), tensor((17, 31), 2, torch.bfloat16).t()
    assert dot(a, b) == (a.double() * b.double()).sum().item(), "exact on the inputs' grid"
    assert dot(torch.empty(0), torch.empty(0)) == 0
    assert dot(torch.tensor(3.0), torch.tensor(-2.0)) == -6


@pytest.mark.parametrize("native", [True, False], ids=["compiled", "torch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(37, 300), (3000, 5), (4, 5, 6), (9,), (), (0, 3), (3, 0)], ids=str)
def test_dots_of_rows_and_columns(
    native: bool, dtype: torch.dtype, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exact on the inputs' grid, in any order."""
    if not native:
        monkeypatch.setattr(native_backend, "library", lambda: None)
    base, models = inputs(shape, 3, 3, dtype)
    for axis in range(-1, len(shape)):
        for origin in (None, base):
            wide = torch.stack([x.double() - (0 if origin is None else base.double()) for x in models])
            lines = wide.reshape(3, *(shape or (1,))).movedim(axis if axis < 0 else axis + 1, -1)
            expected = (lines[:, None] * lines).sum(-1).reshape(3, 3, -1)
            assert torch.equal(torch.from_numpy(row_grams(models, origin, axis)), expected)


@pytest.mark.parametrize("native", [True, False], ids=["compiled", "torch"])
@pytest.mark.parametrize("size", [0, 1, 5000, 200_001])
def test_changes_that_models_share(native: bool, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if not native:
        monkeypatch.setattr(native_backend, "library", lambda: None)
    base, models = inputs((size,), 3, 3, torch.bfloat16)
    changed = torch.stack([(model.float() - base.float()).abs() > 0.2 for model in models])
    count = changed.sum(0)
    expected = [(int((mine & (count > 1)).sum()), int((mine & (count == 1)).sum())) for mine in changed]
    assert changes(base, models, 0.2) == expected


def statistics(cache: Cache, name: str = "w", order: tuple[int, ...] = (0, 1)) -> TensorStatistics:
    base, models = inputs((50,), 1, 2)
    return TensorStatistics(name, InputTensor("b", base), [InputTensor(f"m{i}", models[i]) for i in order], cache)


def test_statistics_are_computed_once_for_all_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    dots, sorts = Counter(gram), Counter(np.unique)
    cache: Cache = {}
    monkeypatch.setattr(module, "gram", dots)
    monkeypatch.setattr(np, "unique", sorts)
    # The second candidate lists the models in another order. Its statistics are in the cache.
    for order in ((0, 1), (1, 0)):
        known = statistics(cache, order=order)
        assert known.dot(BASE, 0) == known.dot(0, BASE)
        known.dot(0, 1)
        known.dot(BASE, 1)
        assert known.task_dot(0, 1) == known.task_dot(1, 0)
        assert known.magnitudes(0).largest(3) > known.magnitudes(0).largest(4)
        assert known.magnitudes(1).largest(3) > known.magnitudes(1).largest(4)
    assert (dots.calls, sorts.calls) == (2, 2)


def test_statistics_of_other_tensors_and_models_are_their_own() -> None:
    cache: Cache = {}
    one = statistics(cache)
    assert one.magnitudes(0).total != one.magnitudes(1).total
    assert one.magnitudes(0).total == statistics(cache, order=(1, 0)).magnitudes(1).total
    base, models = inputs((50,), 9, 1)
    other = TensorStatistics("v", InputTensor("b", base), [InputTensor("m0", models[0])], cache)
    assert other.dot(BASE, 0) != one.dot(BASE, 0)
    assert other.size == 50
