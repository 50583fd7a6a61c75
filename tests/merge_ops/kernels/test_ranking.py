"""Ranks, counts and sums of elements' numbers, against sorting: by every backend, for all dtypes, to the last bit."""

from collections.abc import Sequence
from math import inf, nextafter

import numpy as np
import pytest
import torch
from torch import Tensor

from mergesearch.merge_ops.kernels import native_selection, ranking, selection, threads
from mergesearch.merge_ops.kernels.numbers import Numbers
from mergesearch.merge_ops.kernels.ranking import Layout, Ranges, Ranking
from mergesearch.merge_ops.kernels.selection import energies
from mergesearch.merge_ops.kernels.torch_backend import spread_of
from mergesearch.merge_ops.methods._ranked import row_ranks

from ..helpers import Counter, inputs, tensor

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
SIZE = threads.SPAN + 77
TINY = 1e-45
"""The smallest float32 above zero."""
EDGES = [0.0, -0.0, TINY, -TINY, 3 * TINY, 1e-38, -1e-38, 1.0, -1.0, nextafter(1.0, 2.0), 3e38, -3e38]


@pytest.fixture(params=["compiled", "torch"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "torch":
        monkeypatch.setattr(native_selection, "reads", lambda _: False)
    elif not native_selection.reads([torch.zeros(1)]):
        pytest.skip("there is no C compiler")


@pytest.fixture(params=[0, 1 << 12], ids=["counted", "sorted"])
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a small tensor is counted as a large one, or sorted."""
    monkeypatch.setattr(ranking, "SORTED", request.param)


def ranked(numbers: Numbers, ranges: Ranges | None = None) -> Ranking:
    return Ranking(lambda: [numbers], ranges or Ranges(Layout(torch.float32, numbers.signed)), numbers.size)


def magnitudes(values: Tensor) -> Numbers:
    return Numbers("magnitude", torch.zeros_like(values), [values])


def assert_as_sorted(found: Ranking, numbers: Tensor, ranks: Sequence[int]) -> None:
    """Every answer for these ranks is that of the sorted numbers."""
    descending = numbers.flatten().sort(descending=True).values
    assert found.size == numbers.numel()
    for rank in ranks:
        number = descending[rank - 1].item()
        assert found.largest(rank) == number
        assert found.largest_of([1, rank]) == [descending[0].item(), number]
        for threshold in (number, nextafter(number, inf), nextafter(number, -inf), number * 1.01):
            kept = descending.double() >= threshold
            assert found.count_from(threshold) == int(kept.sum())
            exact = descending.double()[kept].sum().item()
            assert found.sum_from(threshold) == pytest.approx(exact, rel=1e-12, abs=0)
    assert found.total == pytest.approx(descending.double().sum().item(), rel=1e-12, abs=0)


@pytest.mark.usefixtures("backend", "small")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [1, 2, 15, 99])
def test_every_rank_is_that_of_sorting(size: int, dtype: torch.dtype) -> None:
    base, (model,) = inputs((size,), 1, 1, dtype)
    wide = torch.promote_types(dtype, torch.float32)
    numbers = (model.to(wide) - base.to(wide)).abs()
    assert_as_sorted(ranked(Numbers("magnitude", base, [model])), numbers, range(1, size + 1))


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("of", [torch.float32, torch.bfloat16], ids=str)
def test_ranks_of_several_spans(dtype: torch.dtype, of: torch.dtype) -> None:
    """Of dtypes that differ, too, and with many elements that did not change."""
    base, (model,) = inputs((SIZE,), 3, 1, dtype)
    model = torch.where(torch.arange(SIZE) % 3 == 0, base, model).to(of)
    wide = torch.promote_types(dtype, torch.float32)
    numbers = (model.to(wide) - base.to(wide)).abs()
    assert_as_sorted(ranked(Numbers("magnitude", base, [model])), numbers, [1, 2, 400, SIZE // 2, SIZE - 5000, SIZE])


@pytest.mark.usefixtures("backend", "small")
@pytest.mark.parametrize("count", [1, 1000])
def test_edges(count: int) -> None:
    """Zeros of both signs, the smallest and the largest numbers, neighbors, each alone or many times."""
    values = torch.tensor(EDGES, dtype=torch.float64).float().repeat(count)
    assert_as_sorted(ranked(magnitudes(values)), values.abs(), range(1, values.numel() + 1, count))


@pytest.mark.usefixtures("backend", "small")
@pytest.mark.parametrize("value", [0.0, TINY, 0.1, 3e38])
def test_elements_that_are_all_alike(value: float) -> None:
    values = torch.full((5000,), value)
    assert_as_sorted(ranked(magnitudes(values)), values, [1, 17, 5000])


@pytest.mark.usefixtures("backend", "small")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nothing_has_no_sum(dtype: torch.dtype) -> None:
    found = ranked(magnitudes(torch.zeros(0, dtype=dtype)))
    assert (found.size, found.total, found.sum_from(0.0), found.count_from(1.0)) == (0, 0, 0, 0)


@pytest.mark.usefixtures("backend", "small")
def test_what_is_not_finite_comes_first() -> None:
    values = torch.tensor([1.0, -inf, float("nan"), -float("nan"), 2.0, inf])
    found = ranked(magnitudes(values))
    assert [found.largest(rank) for rank in range(3, 7)] == [inf, inf, 2.0, 1.0]
    assert np.isnan([found.largest(1), found.largest(2)]).all()


def test_sums_are_exact() -> None:
    found = ranked(magnitudes(torch.tensor([1e8] + [1.0] * 100)))
    assert found.total == found.sum_from(1.0) == 1e8 + 100
    assert found.sum_from(2.0) == 1e8


@pytest.mark.usefixtures("backend", "small")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_spreads_are_those_of_the_kernels(dtype: torch.dtype) -> None:
    base, models = inputs((3001,), 5, 3, dtype)
    wide = torch.promote_types(dtype, torch.float32)
    spreads = spread_of([model.to(wide) - base.to(wide) for model in models])
    assert_as_sorted(ranked(Numbers("spread", base, models)), spreads, [1, 100, 1500, 3000])


@pytest.mark.usefixtures("backend", "small")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(60, 50), (7,), ()], ids=str)
def test_importances_may_be_negative(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    base, (model,) = inputs(shape, 7, 1, dtype)
    wide = torch.promote_types(dtype, torch.float32)
    factors = tensor(shape[:-1] or (1,), 3).to(wide)
    rows = (model.to(wide) - base.to(wide)).abs().view(factors.numel(), -1)
    numbers = rows * factors[:, None]
    found = ranked(Numbers("importance", base, [model], factors))
    descending = numbers.flatten().sort(descending=True).values.tolist()
    assert [found.largest(rank) for rank in range(1, 1 + numbers.numel(), 7)] == descending[::7]


@pytest.mark.usefixtures("backend")
def test_tensors_with_gaps() -> None:
    base, model = tensor((70, 80), 1).t(), tensor((80, 70), 2)
    assert_as_sorted(ranked(Numbers("magnitude", base, [model])), (model - base).abs(), [1, 2000, 5600])


@pytest.mark.parametrize("wide", [torch.float32, torch.float64], ids=str)
def test_several_tensors_are_answered_as_one(wide: torch.dtype) -> None:
    """One of them may have a wider dtype than the others."""
    values = [tensor((31, 7), 1), torch.zeros(0), tensor((1,), 2), tensor((400,), 3, wide, 0.01), torch.zeros(5)]
    found = Ranking(lambda: map(magnitudes, values), Ranges())
    together = torch.cat([each.flatten().to(wide).abs() for each in values])
    assert_as_sorted(found, together, range(1, together.numel() + 1, 9))


def passes(monkeypatch: pytest.MonkeyPatch) -> Counter:
    counter = Counter(selection.count_keys)
    monkeypatch.setattr(ranking, "count_keys", counter)
    return counter


def test_a_rank_costs_two_passes_and_another_one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    counter, ranges, numbers = passes(monkeypatch), Ranges(), magnitudes(torch.rand(SIZE) + 1e-3)
    ranked(numbers, ranges).largest(SIZE // 3)
    assert counter.calls == 2
    threshold = ranked(numbers, ranges).largest(SIZE // 3)
    ranked(numbers, ranges).sum_from(threshold)
    assert counter.calls == 2, "what is known is known to all"
    ranked(numbers, ranges).largest(SIZE // 2)
    assert counter.calls == 3
    several = [SIZE // 2, SIZE // 4, SIZE // 5, 1]
    assert ranked(numbers, ranges).largest_of(several) == [ranked(numbers).largest(rank) for rank in several]
    assert counter.calls == 4 + 2 * len(several), "several cost no more passes than one"


def test_a_range_of_equal_elements_needs_no_second_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    counter, values = passes(monkeypatch), (torch.arange(SIZE) % 3).float()
    assert_as_sorted(ranked(magnitudes(values)), values, [1, SIZE // 3 - 5, SIZE // 2, SIZE])
    assert counter.calls == 1


def test_the_oldest_ranges_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "TABLE", 300)
    counter, ranges, values = passes(monkeypatch), Ranges(), torch.rand(SIZE) + 1e-3
    assert_as_sorted(ranked(magnitudes(values), ranges), values, [SIZE // 8 * i for i in range(1, 8)])
    before = counter.calls
    assert sum(each.starts.size for each in ranges.refined.values()) <= 300
    ranked(magnitudes(values), ranges).largest(SIZE // 8)
    assert counter.calls == before + 1


@pytest.mark.usefixtures("two_threads")
def test_threads_do_not_change_counts() -> None:
    base, models = inputs((5 * threads.SPAN,), 5, 2)
    numbers = Numbers("spread", base, models)
    found, energy = ranked(numbers), energies(numbers, 0.1)
    torch.set_num_threads(1)
    alone = ranked(numbers)
    assert [found.largest(rank) for rank in (5, 70000)] == [alone.largest(rank) for rank in (5, 70000)]
    assert found.total == alone.total
    assert energies(numbers, 0.1) == energy


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [0, 3, SIZE])
def test_energies_of_the_elements_with_the_largest_spreads(size: int, dtype: torch.dtype) -> None:
    base, models = inputs((size,), 5, 3, dtype)
    deltas = [model.double() - base.double() for model in models]
    spreads = spread_of(
        [(model - base if dtype == torch.float64 else model.float() - base.float()) for model in models]
    )
    for least in (0.0, 0.05, float(spreads.max()) if size else 1.0, inf):
        wanted = [(delta.square() * (spreads >= least)).sum().item() for delta in deltas]
        assert energies(Numbers("spread", base, models), least) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("shape", [(), (5,), (3, 64), (3, 65), (200, 3), (2, 3, 700), (1, 70001), (0, 3), (3, 0)])
def test_ranks_in_rows_are_those_of_a_stable_sort(shape: tuple[int, ...]) -> None:
    base = tensor(shape, 1, torch.bfloat16)
    model = (base + tensor(shape, 2, torch.bfloat16, 0.01)).to(torch.bfloat16)
    found = row_ranks(base, [model])[: base.numel()].int() & 0xFFFF
    delta = (model.float() - base.float()).abs()
    order = (delta if shape else delta.view(1)).argsort(dim=-1, stable=True)
    ranks = order.argsort(dim=-1)
    if shape and shape[-1] > 1 << 16:
        ranks = ranks * ((1 << 16) - 1) // (shape[-1] - 1)
    assert torch.equal(found, ranks.flatten().int())
