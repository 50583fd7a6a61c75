"""The tolerance holds for sums in any order, and a term that is left out is far beyond it."""

import random
from fractions import Fraction
from functools import reduce

import pytest
import torch
from torch import Tensor

from .tolerances import close, tolerance


def added(terms: list[Tensor]) -> Tensor:
    """One after the other, each sum rounded."""
    return reduce(torch.add, terms)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("count", [2, 10, 100])
def test_orders_of_a_sum_are_as_near_as_said(dtype: torch.dtype, count: int) -> None:
    rng = random.Random(count)
    terms = list(torch.tensor([rng.choice((-1, 1)) * rng.uniform(0.5, 1.5) for _ in range(count)], dtype=dtype))
    exact = float(sum(Fraction(term.item()) for term in terms))
    room = tolerance(count, dtype, sum(abs(term.item()) for term in terms))
    for _ in range(200):
        rng.shuffle(terms)
        assert abs(added(terms).item() - exact) <= room / 2
        assert abs(added(terms[1:]).item() - exact) > 100 * room


def test_several_numbers_share_the_largest_ones_tolerance() -> None:
    step = tolerance(4, magnitude=2.0)
    assert [1.0 + 0.9 * step, 2.0] == close([1.0, 2.0], 4)
    assert [1.0 + 1.1 * step, 2.0] != close([1.0, 2.0], 4)


def test_so_many_operations_say_nothing() -> None:
    with pytest.raises(AssertionError, match="nothing is left"):
        tolerance(1000, torch.bfloat16)
