"""Margins to grades: between 0 and 1, the metric in the limit, and blind to probabilities that are merely flatter."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mergesearch.evaluators import GradedByMargin, Item, decision_margin, soft_decisions, spread

from ...tolerances import close

margin = st.floats(-50, 50, allow_subnormal=False)
some_margins = st.lists(margin, min_size=1, max_size=12).map(lambda m: torch.tensor(m, dtype=torch.float64))
NAN, INF = math.nan, math.inf


@given(some_margins, st.floats(0.05, 4), st.integers(-8, 8))
def test_flatter_or_sharper_probabilities_have_the_same_grades(m: torch.Tensor, k: float, power: int) -> None:
    factor = 2.0**power  # rounds nothing
    if m.abs().max() < 1e-200:
        return
    assert spread(factor * m) == factor * spread(m)
    assert torch.equal(soft_decisions(factor * m, k * spread(factor * m)), soft_decisions(m, k * spread(m)))


@given(some_margins)
def test_spread_is_the_root_mean_square(m: torch.Tensor) -> None:
    expected = math.sqrt(sum(float(x) ** 2 for x in m) / len(m))
    assert spread(m) > 0
    if expected > 1e-100:
        assert spread(m) == close(expected, len(m) + 8)


@pytest.mark.parametrize(
    ("margins", "expected"),
    [
        ([3.0, -4.0], math.sqrt(12.5)),
        ([3.0, NAN, INF, -INF], 3.0),  # nothing is decided there
        ([2.0, 2.0], 2.0),  # the standard deviation is 0
        ([-5.0], 5.0),
        ([1e300, -1e300], 1e300),
        ([0.0], 1.0),
        ([decision_margin([1.0, 1.0], {0})], 1.0),
        ([NAN], 1.0),
        ([], 1.0),
    ],
)
def test_spread_is_always_a_number_above_0(margins: list[float], expected: float) -> None:
    assert spread(torch.tensor(margins, dtype=torch.float64)) == close(expected, 8)


def test_spread_takes_all_numbers_of_all_items() -> None:
    assert spread(torch.tensor([[3.0, NAN], [-4.0, INF]], dtype=torch.float64)) == close(math.sqrt(12.5), 8)


@pytest.mark.parametrize(
    ("values", "correct", "expected"),
    [
        ([-1.0, -3.0, -2.5], {0}, 1.5),
        ([-1.0, -3.0, -2.5], {2}, -1.5),
        ([-1.0, -3.0, -2.5], {1, 2}, -1.5),  # several correct answers: the best of them
        ([-1.0, -3.0], {0, 1}, INF),
        ([-1.0, -3.0], set(), -INF),
        ([-1.0, -INF], {1}, -INF),
    ],
)
def test_margin_of_a_decision(values: list[float], correct: set[int], expected: float) -> None:
    assert decision_margin(values, correct) == expected


@given(st.lists(st.integers(-2, 2).map(float), min_size=2, max_size=5), st.sets(st.integers(0, 4)))
def test_the_sign_is_the_decision_ties_included(values: list[float], correct: set[int]) -> None:
    chosen = int(torch.tensor(values).argmax())
    right = chosen in correct
    m = decision_margin(values, correct)
    assert (m > 0) == right
    assert soft_decisions(torch.tensor([m], dtype=torch.float64), 1e-305).item() == right
    assert abs(m) > 1e-299 or soft_decisions(torch.tensor([m], dtype=torch.float64), 1.0).item() == 0.5


def test_graded_value_is_the_weighted_mean_of_the_grades() -> None:
    items = [Item("0", "t", "x", 1.0), Item("1", "t", "y", 3.0)]
    margins = torch.tensor([math.log(3), -math.inf], dtype=torch.float64)
    graded = GradedByMargin()
    assert graded.grades(items, margins, 1.0).tolist() == close([0.75, 0.0], 8)
    assert graded.graded_value(items, margins, 1.0) == close(0.75 / 4, 8)
    assert graded.graded_value(items, margins, 1e-9) == 0.25
