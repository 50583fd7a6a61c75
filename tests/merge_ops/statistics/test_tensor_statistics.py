"""Statistics that depend only on the inputs: exact, computed once, kept."""

from fractions import Fraction

import pytest
import torch
from torch import Tensor

from mergesearch.merge_ops.methods._base import BASE
from mergesearch.merge_ops.statistics import gram as grams
from mergesearch.merge_ops.statistics import tensor_statistics as prepare
from mergesearch.merge_ops.statistics.gram import gram
from mergesearch.merge_ops.statistics.tensor_statistics import Cache, QuantileTable, Source, TensorStatistics

from ..helpers import Counter, inputs, tensor


def dot(a: Tensor, b: Tensor) -> float:
    return gram([a, b])[0][1]


def table(values: Tensor) -> QuantileTable:
    return QuantileTable.of(values, torch.zeros_like(values))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("size", [1, 2, 999])
def test_every_rank_of_a_small_tensor_is_exact(size: int, dtype: torch.dtype) -> None:
    base, (model,) = inputs((size,), 1, 1, dtype)
    magnitudes = sorted(((m - b).__abs__() for m, b in zip(model.tolist(), base.tolist(), strict=True)), reverse=True)
    quantiles = QuantileTable.of(model, base)
    assert [quantiles.largest(rank + 1) for rank in range(size)] == magnitudes
    assert quantiles.total == pytest.approx(sum(magnitudes), rel=1e-12)


def test_sum_from_takes_what_is_at_least_as_large() -> None:
    quantiles = table(torch.tensor([3.0, -1.0, 2.0, 2.0, 0.0, -5.0]))
    thresholds = [6.0, 5.0, 4.0, 2.0, 1.5, 1.0, 0.5, 0.0]
    assert [quantiles.sum_from(t) for t in thresholds] == [0.0, 5.0, 5.0, 12.0, 12.0, 13.0, 13.0, 13.0]


def test_sums_are_in_float64() -> None:
    quantiles = table(torch.tensor([1e8] + [1.0] * 100))
    assert quantiles.total == quantiles.sum_from(1.0) == 1e8 + 100


def test_nothing_has_no_sum() -> None:
    quantiles = table(torch.empty(0))
    assert quantiles.total == 0
    assert quantiles.sum_from(0.0) == 0


@pytest.mark.parametrize("size", [65, 100, 1001, 5000])
def test_a_large_tensor_is_answered_within_half_a_step(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "TABLE_SIZE", 64)
    # The magnitude says its own rank: the largest is size, rank 1.
    values = (torch.randperm(size, generator=torch.Generator().manual_seed(0)) + 1).float()
    quantiles = table(values * torch.where(values % 2 == 0, 1.0, -1.0))
    for rank in range(1, size + 1):
        answered = size + 1 - quantiles.largest(rank)
        # One more for the two roundings to whole ranks.
        assert abs(answered - rank) <= size / (2 * 64) + 1
    assert (quantiles.largest(1), quantiles.largest(size)) == (size, 1.0)
    assert quantiles.total == size * (size + 1) / 2


def test_sums_of_a_large_tensor_are_those_of_the_answered_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "TABLE_SIZE", 64)
    values = tensor((3001,), 4)
    quantiles = table(values)
    for rank in (1, 100, 1500, 3001):
        threshold = quantiles.largest(rank)
        exact = values.abs()[values.abs() >= threshold].double().sum().item()
        assert quantiles.sum_from(threshold) == pytest.approx(exact, rel=1e-3)


def test_dot_is_summed_in_float64() -> None:
    """Products that float32 would lose: checked against exact fractions."""
    a, b = tensor((3 * 1000 + 7,), 1) * 1e4, tensor((3 * 1000 + 7,), 2)
    a[0], b[0], a[1], b[1] = 1e8, 1e8, -1e8, 1e8
    exact = sum(Fraction(x) * Fraction(y) for x, y in zip(a.tolist(), b.tolist(), strict=True))
    assert dot(a, b) == pytest.approx(float(exact), abs=64.0)
    assert abs(float(exact)) < 1e8


def test_dot_of_several_blocks_and_strides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grams, "BLOCK", 64)
    a, b = tensor((31, 17), 1), tensor((17, 31), 2, torch.bfloat16).t()
    assert dot(a, b) == pytest.approx((a.double() * b.double()).sum().item(), rel=1e-12)
    assert dot(torch.empty(0), torch.empty(0)) == 0
    assert dot(torch.tensor(3.0), torch.tensor(-2.0)) == -6


def statistics(cache: Cache, name: str = "w", order: tuple[int, ...] = (0, 1)) -> TensorStatistics:
    base, models = inputs((50,), 1, 2)
    return TensorStatistics(name, Source("b", base), [Source(f"m{i}", models[i]) for i in order], cache)


def test_statistics_are_computed_once_for_all_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    dots, tables = Counter(gram), Counter(QuantileTable.of)
    cache: Cache = {}
    monkeypatch.setattr(prepare, "gram", dots)
    monkeypatch.setattr(QuantileTable, "of", tables)
    # The second candidate lists the models in another order: what it asks for is known.
    for order in ((0, 1), (1, 0)):
        known = statistics(cache, order=order)
        assert known.dot(BASE, 0) == known.dot(0, BASE)
        known.dot(0, 1)
        known.dot(BASE, 1)
        assert known.task_dot(0, 1) == known.task_dot(1, 0)
        known.magnitudes(0)
        known.magnitudes(1)
    assert (dots.calls, tables.calls) == (2, 2)


def test_statistics_of_other_tensors_and_models_are_their_own() -> None:
    cache: Cache = {}
    one = statistics(cache)
    assert one.magnitudes(0).total != one.magnitudes(1).total
    assert one.magnitudes(0).total == statistics(cache, order=(1, 0)).magnitudes(1).total
    base, models = inputs((50,), 9, 1)
    other = TensorStatistics("v", Source("b", base), [Source("m0", models[0])], cache)
    assert other.dot(BASE, 0) != one.dot(BASE, 0)
    assert other.size == 50
