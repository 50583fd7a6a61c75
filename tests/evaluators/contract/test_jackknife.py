"""Pseudo-values: their mean is the value, and they spread as the value itself does over samples of items."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mergesearch.evaluators import FunctionOfMeans, Item, Jackknife, aggregate

from ...tolerances import close


def items_of(weights: Sequence[float]) -> list[Item]:
    return [Item(str(n), "t", str(n), float(weight)) for n, weight in enumerate(weights)]


class F1(FunctionOfMeans):
    """scores: [n, 2], predicted and gold, 0 or 1."""

    def features(self, items: Sequence[Item], scores: Tensor) -> Tensor:  # noqa: ARG002
        predicted, gold = scores.T
        return torch.stack([predicted * gold, predicted, gold], dim=1)

    def statistic(self, means: Tensor) -> Tensor:
        both, predicted, gold = means.unbind(-1)
        return 2 * both / (predicted + gold)


class Correlation(FunctionOfMeans):
    def features(self, items: Sequence[Item], scores: Tensor) -> Tensor:  # noqa: ARG002
        x, y = scores.T
        return torch.stack([x, y, x * x, y * y, x * y], dim=1)

    def statistic(self, means: Tensor) -> Tensor:
        x, y, xx, yy, xy = means.unbind(-1)
        return (xy - x * y) / ((xx - x * x) * (yy - y * y)).sqrt()


class Perplexity(FunctionOfMeans):
    def statistic(self, means: Tensor) -> Tensor:
        return means[..., 0].exp()


class Slow(Jackknife):
    """The same values, left out one by one."""

    def __init__(self, quick: FunctionOfMeans) -> None:
        self.value = quick.value  # type: ignore[method-assign]

    def value(self, items: Sequence[Item], scores: Tensor) -> float:
        raise NotImplementedError


def sample(kind: type[FunctionOfMeans], count: int) -> Tensor:
    draw = np.random.default_rng(count)
    gold = draw.random(count) < 0.4
    predicted = np.where(draw.random(count) < 0.8, gold, ~gold)
    x = draw.normal(size=count)
    scores = {
        F1: np.stack([predicted, gold], axis=1),
        Correlation: np.stack([x, 0.6 * x + draw.normal(size=count)], axis=1),
        Perplexity: 1 + 0.3 * draw.normal(size=count),
    }
    return torch.from_numpy(scores[kind].astype(np.float64))


def pseudo(expected: Any, items: Sequence[Item]) -> Any:
    """Differences of sums over the items, times their number by weight: of the lightest, the sum of all weights."""
    share = sum(item.weight for item in items) / min(item.weight for item in items)
    return close(expected, 3 * len(items), magnitude=share * float(np.abs(expected).max()))


KINDS = [F1, Correlation, Perplexity]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weighted", [False, True])
def test_their_mean_is_the_value(kind: type[FunctionOfMeans], weighted: bool) -> None:
    scores = sample(kind, 50)
    items = items_of(range(1, 51) if weighted else [1] * 50)
    assert aggregate(items, kind().contributions(items, scores)) == pseudo(kind().value(items, scores), items)


@pytest.mark.parametrize("kind", KINDS)
def test_left_out_at_once_is_left_out_one_by_one(kind: type[FunctionOfMeans]) -> None:
    scores, items = sample(kind, 30), items_of(range(1, 31))
    slow = Slow(kind()).contributions(items, scores)
    assert kind().contributions(items, scores).tolist() == pseudo(slow.tolist(), items)


@pytest.mark.parametrize("kind", KINDS)
def test_they_spread_as_the_value_does_over_samples(kind: type[FunctionOfMeans]) -> None:
    """The standard error from pseudo-values against that of the value computed anew on each bootstrap sample."""
    scores, items, draw = sample(kind, 400), items_of([1] * 400), np.random.default_rng(0)
    drawn = torch.from_numpy(draw.integers(400, size=(4000, 400)))
    direct = kind().statistic(kind().features(items, scores)[drawn].mean(1)).std()
    indirect = kind().contributions(items, scores).std() / 400**0.5
    # The direct one is good to 1 / √(2 · 4000) = 1.1 %, and 400 items leave a few more.
    assert float(indirect) == pytest.approx(float(direct), rel=0.06)


@pytest.mark.parametrize("kind", KINDS)
def test_their_resampled_means_have_the_quantiles_of_the_resampled_value(kind: type[FunctionOfMeans]) -> None:
    scores, items, draw = sample(kind, 400), items_of([1] * 400), np.random.default_rng(1)
    drawn = torch.from_numpy(draw.integers(400, size=(4000, 400)))
    direct = kind().statistic(kind().features(items, scores)[drawn].mean(1)).numpy()
    indirect = kind().contributions(items, scores)[drawn].mean(1).numpy()
    width = float(direct.std())
    for share in (0.025, 0.975):
        assert np.quantile(indirect, share) == pytest.approx(np.quantile(direct, share), abs=0.25 * width)


def test_of_a_weighted_mean_they_are_the_scores() -> None:
    class Mean(FunctionOfMeans):
        def statistic(self, means: Tensor) -> Tensor:
            return means[..., 0]

    scores, items = sample(Perplexity, 20), items_of(range(1, 21))
    assert Mean().contributions(items, scores).tolist() == pseudo(scores.tolist(), items)


def test_one_item_or_none() -> None:
    one = items_of([2.0])
    assert Perplexity().contributions(one, torch.tensor([0.0], dtype=torch.float64)).tolist() == [1.0]
    assert Perplexity().contributions([], torch.empty(0, dtype=torch.float64)).shape == (0,)
