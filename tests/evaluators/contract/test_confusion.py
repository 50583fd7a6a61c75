"""F1 and MCC of soft predictions: the metric in the limit, and what each item contributes by leaving it out."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mergesearch.evaluators.contract.confusion import (
    STATISTICS,
    label_margins,
    soft_contributions,
    soft_predictions,
    soft_value,
)
from mergesearch.evaluators.contract.jackknife import pseudo_values

from ...tolerances import assert_close, close

TINY = 1e-305


@given(st.lists(st.integers(-2, 2).map(float), min_size=2, max_size=6), st.integers(0, 5))
def test_the_first_of_the_likeliest_labels_is_predicted(values: list[float], label: int) -> None:
    gold = label % len(values)
    margins = torch.tensor([label_margins(values, gold)], dtype=torch.float64)
    probabilities, is_gold = soft_predictions(margins, TINY)
    assert probabilities[0].tolist() == [float(n == values.index(max(values))) for n in range(len(values))]
    assert is_gold[0].tolist() == [float(n == gold) for n in range(len(values))]


def test_probabilities_are_those_of_the_values() -> None:
    values = [0.3, -1.2, 2.0]
    margins = torch.tensor([[*label_margins(values, 1), math.inf]], dtype=torch.float64)
    probabilities, _ = soft_predictions(margins, 0.5)
    expected = [math.exp(value / 0.5) for value in values]
    assert probabilities[0].tolist() == close([*(each / sum(expected) for each in expected), 0.0], 16)


def some_margins(items: int, labels: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(4)
    values = torch.randn(items, labels, generator=draw, dtype=torch.float64)
    return torch.tensor([label_margins(row.tolist(), n % 2) for n, row in enumerate(values)], dtype=torch.float64)


@pytest.mark.parametrize("name", STATISTICS)
def test_each_item_contributes_what_is_lost_without_it(name: str) -> None:
    """The third label is gold nowhere; at this scale it is predicted here and there, with some probability."""
    margins, weights = some_margins(9, 3), torch.arange(1, 10, dtype=torch.float64)
    rest = [[n for n in range(9) if n != left] for left in range(9)]
    left_out = [soft_value(name, margins[keep], weights[keep], 0.4) for keep in rest]
    value = soft_value(name, margins, weights, 0.4)
    expected = pseudo_values(value, torch.tensor(left_out, dtype=torch.float64), weights)
    found = soft_contributions(name, margins, weights, 0.4)
    assert_close(found, expected, 64, magnitude=200.0)
    assert float((found * weights).sum() / weights.sum()) == close(value, 64, magnitude=20.0)


def test_labels_that_nobody_predicts_do_not_count_in_the_mean() -> None:
    margins = torch.tensor([[math.nan, 5.0, 900.0], [4.0, math.nan, 900.0]], dtype=torch.float64)
    assert soft_value("f1_macro", margins, torch.ones(2, dtype=torch.float64), 0.1) == close(1.0, 64)
