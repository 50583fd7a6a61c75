"""Bets that a candidate is worse: how often they are won where it is not, whatever is foretold."""

from collections.abc import Callable

import numpy as np
import pytest

from mergesearch.search.scoring.racing.bets import Bet, Block, drawn
from mergesearch.search.statistics import Array

ITEMS, ERROR, TIMES = 120, 0.1, 2000
ENDS = [8, 10, 14, 20, 30, 44, 60, 90]


def is_won(candidate: Array, needed: float, expected: Array, rates: Array, seed: int) -> bool:
    """Whether a bet on the mean of 0 and 1 is won in one of the blocks."""
    bet, order = Bet(np.full(ITEMS, 1 / ITEMS), needed, rates), drawn(rates, seed)
    for begin, end in zip([0, *ENDS], ENDS, strict=False):
        left = ~np.isin(np.arange(ITEMS), order[:begin])
        known = np.where(np.isin(np.arange(ITEMS), order[:end]), candidate, np.nan)
        bet.settle(Block(order[begin:end], left, known, expected, (1 - expected) / ITEMS, np.full(ITEMS, 0.4 / ITEMS)))
    return bet.is_won(ERROR)


FORECASTS: dict[str, Callable[[Array, np.random.Generator], Array]] = {
    "half": lambda found, _: np.full(len(found), 0.5),
    "right": lambda found, _: 0.1 + 0.8 * found,
    "wrong": lambda found, _: 0.9 - 0.8 * found,
    "too high": lambda found, _: np.ones(len(found)),
    "any": lambda found, rng: rng.random(len(found)),
}


@pytest.mark.parametrize("name", FORECASTS)
@pytest.mark.parametrize("uneven", [False, True])
def test_a_bet_against_what_is_as_good_is_won_as_rarely_as_said(name: str, uneven: bool) -> None:
    rng = np.random.default_rng(0)
    candidate = (rng.random(ITEMS) < 0.6).astype(float)
    expected = FORECASTS[name](candidate, rng)
    rates = rng.choice([0.2, 1.0, 3.0], ITEMS) if uneven else np.ones(ITEMS)
    won = sum(is_won(candidate, float(candidate.mean()), expected, rates, seed) for seed in range(TIMES))
    # Four standard deviations of what is counted.
    assert won / TIMES <= ERROR + 4 * np.sqrt(ERROR / TIMES)


def test_bets_are_often_won_where_the_candidate_is_worse_and_sooner_with_a_forecast() -> None:
    rng = np.random.default_rng(1)
    candidate = (rng.random(ITEMS) < 0.5).astype(float)
    rates, needed = np.ones(ITEMS), float(candidate.mean()) + 0.1
    told, untold = (
        np.mean([is_won(candidate, needed, FORECASTS[name](candidate, rng), rates, seed) for seed in range(200)])
        for name in ("right", "half")
    )
    assert told > 0.9
    assert told > untold


def test_nothing_is_won_without_an_error() -> None:
    bet = Bet(np.ones(2), 5.0, np.ones(2), highest=100.0)
    assert bet.is_won(0.01)
    assert not bet.is_won(0.0)


def test_a_sum_that_cannot_be_reached_any_more_is_known_to_be_less() -> None:
    """Nine of ten items are needed, and the first two are wrong."""
    order = np.arange(10)
    bet = Bet(np.full(10, 0.1), 0.9, np.ones(10))
    for begin in range(0, 4, 2):
        known = np.where(order < begin + 2, 0.0, np.nan)
        bet.settle(Block(order[begin : begin + 2], order >= begin, known, np.ones(10), np.zeros(10), np.full(10, 0.01)))
    assert bet.is_won(0.05)


def test_items_are_drawn_in_proportion_to_their_rates() -> None:
    rates = np.array([1.0, 0.2, 3.0, 0.5, 1.5, 0.1])
    firsts = [drawn(rates, seed)[0] for seed in range(4000)]
    found = np.bincount(firsts, minlength=len(rates)) / len(firsts)
    # Four deviations of 4,000 draws.
    assert found == pytest.approx(rates / rates.sum(), abs=0.03)
