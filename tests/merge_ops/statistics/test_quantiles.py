"""Tables of sorted magnitudes: exact for their own ranks, close for the ranks between."""

import pytest
import torch
from torch import Tensor

from mergesearch.merge_ops.statistics import quantiles as module
from mergesearch.merge_ops.statistics.quantiles import JointQuantiles, QuantileTable

from ..helpers import inputs, tensor

TENSORS = [tensor((31, 7), 1), tensor((1,), 2), tensor((400,), 3, spread=0.01), torch.zeros(0), torch.zeros(5)]


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
    monkeypatch.setattr(module, "TABLE_SIZE", 64)
    # Each magnitude determines its rank: the largest is ``size`` and has rank 1.
    values = (torch.randperm(size, generator=torch.Generator().manual_seed(0)) + 1).float()
    quantiles = table(values * torch.where(values % 2 == 0, 1.0, -1.0))
    for rank in range(1, size + 1):
        answered = size + 1 - quantiles.largest(rank)
        # Plus one for the two roundings to whole ranks.
        assert abs(answered - rank) <= size / (2 * 64) + 1
    assert (quantiles.largest(1), quantiles.largest(size)) == (size, 1.0)
    assert quantiles.total == size * (size + 1) / 2


def test_sums_of_a_large_tensor_are_those_of_the_answered_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TABLE_SIZE", 64)
    values = tensor((3001,), 4)
    quantiles = table(values)
    for rank in (1, 100, 1500, 3001):
        threshold = quantiles.largest(rank)
        exact = values.abs()[values.abs() >= threshold].double().sum().item()
        assert quantiles.sum_from(threshold) == pytest.approx(exact, rel=1e-3)


def test_several_tables_answer_as_one() -> None:
    joint, together = (
        JointQuantiles([table(values) for values in TENSORS]),
        torch.cat([values.flatten() for values in TENSORS]),
    )
    alone = table(together)
    assert joint.size == alone.size == together.numel()
    assert joint.total == pytest.approx(alone.total)
    for rank in range(1, joint.size + 1):
        assert joint.largest(rank) == alone.largest(rank)
    for threshold in (0.0, 0.01, 0.5, 99.0):
        assert joint.sum_from(threshold) == pytest.approx(alone.sum_from(threshold))
        assert joint.count_from(threshold) == int((together.abs() >= threshold).sum())
