"""Draws, test and estimate: expectations by enumeration of all orders, error rates by simulation."""

from collections.abc import Iterator
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from mergesearch.search.scoring.racing.betting_test import BettingTest, Draws, ExpectedGains, estimate
from mergesearch.search.statistics import Array

from ....tolerances import close, tolerance

RATES = np.array([1.0, 0.2, 3.0, 0.5, 1.5, 0.1])
GAINS = np.array([-1.0, 2.0, -2.0, 0.5, 1.0, 0.0])
CEILINGS = np.array([1.0, 2.0, 1.0, 2.0, 1.0, 0.5])


def all_orders(rates: Array) -> Iterator[tuple[float, Draws]]:
    """Every order with its probability under draws proportional to the rates of what is left."""
    for order in permutations(range(len(rates))):
        left, probability = rates.sum(), 1.0
        for item in order:
            probability *= rates[item] / left
            left -= rates[item]
        yield probability, Draws(rates, np.argsort(order).astype(float))


def betting_test(draws: Draws, gains: Array, ceilings: Array, count: int, fixed: float = 0.0) -> BettingTest:
    drawn = draws.order[:count]
    return BettingTest(draws, gains[drawn], [ExpectedGains(0, np.zeros(len(gains)), ceilings[draws.order])], fixed)


def foreseen(draws: Draws, gains: Array, ceilings: Array, count: int) -> BettingTest:
    """With forecasts that change at draws 2 and 3, by what was drawn before; no ceiling is lower than it must be."""
    stages = []
    for begin in (0, 2, 3):
        expected = 0.5 * gains[draws.order[:begin]].sum() * np.cos(np.arange(len(gains)) + begin)
        most = np.maximum(np.maximum(ceilings, gains) - expected, 0.0)
        stages.append(ExpectedGains(begin, expected[draws.order], most[draws.order]))
    return BettingTest(draws, gains[draws.order[:count]], [one for one in stages if one.begin < count or not one.begin])


DUELS = pytest.mark.parametrize("fight", [betting_test, foreseen])


def test_ascending_keys_are_draws_by_rate() -> None:
    firsts = [Draws.of(RATES, seed).order[0] for seed in range(4000)]
    found = np.bincount(firsts, minlength=len(RATES)) / len(firsts)
    # Four deviations of 4,000 draws.
    assert found == pytest.approx(RATES / RATES.sum(), abs=0.03)


@DUELS
def test_every_estimate_is_unbiased(fight: Any) -> None:
    expected, size, count = np.zeros(len(RATES)), np.zeros(len(RATES)), 0
    for probability, draws in all_orders(RATES):
        terms = probability * fight(draws, GAINS, CEILINGS, len(RATES)).estimates
        expected, size, count = expected + terms, size + np.abs(terms), count + 1
    assert expected == close(np.full(len(RATES), GAINS.sum()), count + 32, magnitude=size.max())


@DUELS
def test_no_estimate_is_above_its_bound(fight: Any) -> None:
    for _, draws in all_orders(RATES):
        for gains in (GAINS, CEILINGS):
            course = fight(draws, gains, CEILINGS, len(RATES))
            assert not course.broken
            room = tolerance(32, magnitude=np.abs(course.estimates).max())
            assert (course.estimates <= course.highest + room).all()


@DUELS
@pytest.mark.parametrize("total", [0.0, 0.3])
def test_evidence_against_a_candidate_that_is_no_worse(total: float, fight: Any) -> None:
    """Ville's inequality, exactly: the chance ever to reach c is at most 1 / c."""
    gains = GAINS.copy()
    gains[1] += total - gains.sum()
    ceilings = np.maximum(CEILINGS, gains)
    course = [(p, np.exp(fight(d, gains, ceilings, len(RATES)).log_evidence)) for p, d in all_orders(RATES)]
    for level in (1.05, 1.2, 1.5, 2.0, 3.0, 5.0):
        reached = sum(p for p, evidence in course if np.isfinite(evidence) and evidence >= level)
        assert reached <= 1 / level + tolerance(len(course))


def test_what_cannot_be_made_good_is_certain() -> None:
    """Three of four losses are seen, and the last item can gain one at the most."""
    draws = Draws.of(np.ones(4), 0)
    gains, ceilings = np.full(4, -1.0), np.ones(4)
    assert betting_test(draws, gains, ceilings, 3).log_evidence == np.inf
    assert betting_test(draws, gains, ceilings, 1).log_evidence < np.inf
    assert betting_test(draws, gains, ceilings, 1, fixed=-10.0).log_evidence == np.inf


def test_forecasts_that_come_true_are_evidence_sooner() -> None:
    """What is left to surprise is a tenth of what items differ by."""
    rng = np.random.default_rng(0)
    expected = rng.normal(-0.3, 1.0, 200)
    gains = expected + 0.1 * rng.uniform(-1, 1, 200)
    draws = Draws.of(np.ones(200), 0)
    with_forecast, without = (
        BettingTest(
            draws, gains[draws.order[:20]], [ExpectedGains(0, foresight[draws.order], np.full(200, ceiling))]
        ).log_evidence
        for foresight, ceiling in ((expected, 0.1), (np.zeros(200), gains.max()))
    )
    assert with_forecast > 5 > without


def answers(rng: np.random.Generator, items: int, losses: int, wins: int) -> tuple[Array, Array]:
    """Zero-one gains over an incumbent, and their ceilings."""
    gains = rng.permutation(np.repeat([-1.0, 1.0, 0.0], [losses, wins, items - losses - wins]))
    ceilings = np.where(gains > 0, 1.0, np.where(gains < 0, 0.0, (rng.random(items) < 0.2).astype(float)))
    return gains / items, ceilings / items


def dropped_after(gains: Array, ceilings: Array, rates: Array, seed: int) -> int | None:
    """The first of twenty looks at which the evidence is 20; None where it never is."""
    draws = Draws.of(rates, seed)
    looks = range(len(gains) // 20, len(gains), len(gains) // 20)
    return next((n for n in looks if betting_test(draws, gains, ceilings, n).log_evidence >= np.log(20)), None)


@pytest.mark.parametrize("weighted", [False, True])
def test_candidates_that_are_barely_better_are_kept(weighted: bool) -> None:
    rng = np.random.default_rng(0)
    drops = 0
    for seed in range(200):
        gains, ceilings = answers(rng, 200, losses=20, wins=21)
        rates = np.where(gains != 0, 1.0, 0.2) if weighted else np.ones(200)
        drops += dropped_after(gains, ceilings, rates, seed) is not None
    assert drops <= 19, "binomial(200, 0.05) is above 19 less than once in 200 times"


def test_candidates_that_are_worse_are_dropped_sooner_where_draws_look_at_what_differs() -> None:
    rng = np.random.default_rng(0)
    uniform, weighted = [], []
    for seed in range(40):
        gains, ceilings = answers(rng, 400, losses=60, wins=25)
        rates = np.where((gains != 0) | (ceilings > 0) | (rng.random(400) < 0.1), 1.0, 0.1)
        uniform.append(dropped_after(gains, ceilings, np.ones(400), seed) or 400)
        weighted.append(dropped_after(gains, ceilings, rates, seed) or 400)
    assert np.mean(weighted) < 0.7 * np.mean(uniform)
    assert np.mean(uniform) < 300


def test_a_score_above_its_ceiling_is_noticed() -> None:
    draws = Draws.of(np.ones(4), 0)
    assert betting_test(draws, np.full(4, 0.5), np.full(4, 0.4), 2).broken
    assert not betting_test(draws, np.full(4, 0.4), np.full(4, 0.4), 2).broken


@pytest.mark.parametrize("count", [1, 3, 5, 6])
def test_sums_by_chances_of_inclusion_are_unbiased(count: int) -> None:
    """Of all items, and of some alone."""
    for wanted in (np.ones(6), np.array([1.0, 0, 0, 1, 0, 1])):
        totals = []
        for seed in range(4000):
            draws = Draws.of(RATES, seed)
            drawn = draws.order[:count]
            totals.append(((wanted * GAINS)[drawn] / draws.inclusion(count)[drawn]).sum())
        rounding = tolerance(4000, magnitude=np.abs(totals).max())
        assert abs(np.mean(totals) - (wanted * GAINS).sum()) <= 4 * np.std(totals) / np.sqrt(4000) + rounding


def scores_and_prediction(rng: np.random.Generator) -> tuple[Array, Array]:
    easy = rng.random(300)
    return (easy + rng.normal(0, 0.15, 300) > 0.35).astype(float), (easy > 0.3).astype(float)


def test_the_estimate_is_nearly_unbiased_and_the_prediction_narrows_it() -> None:
    """Draws differ elevenfold in their chances; the prediction, a little low, is corrected nine parts in ten."""
    rng = np.random.default_rng(0)
    scores, predicted = scores_and_prediction(rng)
    weights, rates = rng.integers(1, 4, 300).astype(float), 0.1 + rng.random(300)
    truth = (weights * scores).sum() / weights.sum()
    errors: dict[str, list[float]] = {"with": [], "without": []}
    for seed in range(600):
        draws = Draws.of(rates, seed)
        seen = draws.order[:60]
        for name, fixed in (("with", predicted), ("without", np.full(300, 0.6))):
            errors[name].append(estimate(seen, draws.inclusion(60)[seen], scores[seen], fixed, weights) - truth)
    for found in errors.values():
        assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(600) + 0.1 * abs(predicted.mean() - scores.mean())
    assert np.std(errors["with"]) < 0.85 * np.std(errors["without"])


def test_with_all_items_drawn_the_estimate_is_the_value() -> None:
    scores, predicted = scores_and_prediction(np.random.default_rng(1))
    draws = Draws.of(np.ones(300), 0)
    found = estimate(draws.order, draws.inclusion(300), scores[draws.order], predicted, np.ones(300))
    assert found == close(scores.mean(), 3 * 300)
