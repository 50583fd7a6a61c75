"""Draws, test and estimate: expectations by enumeration of all orders, error rates by simulation."""

from collections.abc import Iterator
from itertools import permutations

import numpy as np
import pytest

from mergesearch.search.sequential import Array, Draws, Lane, estimate, log_evidence

RATES = np.array([1.0, 0.2, 3.0, 0.5, 1.5, 0.1])
GAINS = np.array([-1.0, 2.0, -2.0, 0.5, 1.0, 0.0])
CEILINGS = np.array([1.0, 2.0, 1.0, 2.0, 1.0, 0.5])


def all_orders(rates: Array, rounds: int) -> Iterator[tuple[float, Draws]]:
    """Every order with its probability under draws proportional to the rates of what is left."""
    for order in permutations(range(len(rates))):
        left, probability = rates.sum(), 1.0
        for item in order:
            probability *= rates[item] / left
            left -= rates[item]
        yield probability, Draws(rates, np.argsort(order).astype(float), rounds)


def lane(draws: Draws, gains: Array, ceilings: Array, rounds: int) -> Lane:
    drawn = draws.order[: draws.bounds[rounds]]
    return Lane(draws, gains[drawn], ceilings[draws.order])


def test_ascending_keys_are_draws_by_rate() -> None:
    firsts = [Draws.of(RATES, 3, seed).order[0] for seed in range(4000)]
    found = np.bincount(firsts, minlength=len(RATES)) / len(firsts)
    assert found == pytest.approx(RATES / RATES.sum(), abs=0.03)


@pytest.mark.parametrize("rounds", [2, 3, 6])
def test_every_rounds_estimate_is_unbiased_given_the_past(rounds: int) -> None:
    expected = np.zeros(rounds)
    for probability, draws in all_orders(RATES, rounds):
        expected += probability * lane(draws, GAINS, CEILINGS, rounds).estimates(rounds)
    assert expected == pytest.approx(np.full(rounds, GAINS.sum()))


@pytest.mark.parametrize("rounds", [2, 3, 6])
def test_no_rounds_estimate_is_above_its_bound(rounds: int) -> None:
    for _, draws in all_orders(RATES, rounds):
        for gains in (GAINS, CEILINGS):
            course = lane(draws, gains, CEILINGS, rounds)
            assert (course.estimates(rounds) <= course.highest(rounds)[:rounds] + 1e-9).all()


@pytest.mark.parametrize("total", [0.0, 0.3])
@pytest.mark.parametrize("rounds", [2, 3, 6])
def test_evidence_against_a_candidate_that_is_no_worse(rounds: int, total: float) -> None:
    """Ville's inequality, exactly: the chance ever to reach c is at most 1 / c."""
    gains = GAINS.copy()
    gains[1] += total - gains.sum()
    ceilings = np.maximum(CEILINGS, gains)
    course = [
        (p, np.exp(log_evidence([lane(d, gains, ceilings, rounds)], rounds))) for p, d in all_orders(RATES, rounds)
    ]
    for level in (1.05, 1.2, 1.5, 2.0, 3.0, 5.0):
        reached = sum(p for p, evidence in course if np.isfinite(evidence) and evidence >= level)
        assert reached <= 1 / level + 1e-9


def test_what_cannot_be_made_good_is_certain() -> None:
    """Three of four losses are seen, and the last item can gain one at the most."""
    draws = Draws.of(np.ones(4), 4, 0)
    gains, ceilings = np.full(4, -1.0), np.ones(4)
    assert log_evidence([lane(draws, gains, ceilings, 3)], 3) == np.inf
    assert log_evidence([lane(draws, gains, ceilings, 1)], 1) < np.inf
    assert log_evidence([lane(draws, gains, ceilings, 1)], 1, known=-10.0) == np.inf


def answers(rng: np.random.Generator, items: int, losses: int, wins: int) -> tuple[Array, Array]:
    """Zero-one gains over an incumbent, and their ceilings."""
    gains = rng.permutation(np.repeat([-1.0, 1.0, 0.0], [losses, wins, items - losses - wins]))
    ceilings = np.where(gains > 0, 1.0, np.where(gains < 0, 0.0, (rng.random(items) < 0.2).astype(float)))
    return gains / items, ceilings / items


def dropped_after(gains: Array, ceilings: Array, rates: Array, seed: int) -> int | None:
    """The first of forty looks at which the evidence is 20; None where it never is."""
    draws = Draws.of(rates, 40, seed)
    looks = range(2, 40, 2)
    return next((n for n in looks if log_evidence([lane(draws, gains, ceilings, n)], n) >= np.log(20)), None)


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
        uniform.append(dropped_after(gains, ceilings, np.ones(400), seed) or 40)
        weighted.append(dropped_after(gains, ceilings, rates, seed) or 40)
    assert np.mean(weighted) < 0.7 * np.mean(uniform)
    assert np.mean(uniform) < 30


def test_a_score_above_its_ceiling_is_noticed() -> None:
    draws = Draws.of(np.ones(4), 2, 0)
    assert lane(draws, np.full(4, 0.5), np.full(4, 0.4), 1).broken
    assert not lane(draws, np.full(4, 0.4), np.full(4, 0.4), 1).broken


def scores_and_predictions(rng: np.random.Generator) -> tuple[Array, Array]:
    easy = rng.random(300)
    near, typical = (easy > 0.3).astype(float), np.clip(easy + 0.2, 0, 1)
    return (easy + rng.normal(0, 0.15, 300) > 0.35).astype(float), np.stack([near, typical])


def test_the_estimate_is_unbiased_and_the_control_variate_narrows_it() -> None:
    rng = np.random.default_rng(0)
    scores, predictions = scores_and_predictions(rng)
    weights, rates = rng.integers(1, 4, 300).astype(float), 0.1 + np.abs(predictions[1] - 0.5)
    truth = (weights * scores).sum() / weights.sum()
    errors: dict[str, list[float]] = {"with": [], "without": []}
    for seed in range(600):
        draws = Draws.of(rates, 30, seed)
        seen = scores[draws.order[: draws.bounds[6]]]
        for name, known in (("with", predictions), ("without", np.zeros((2, 300)))):
            errors[name].append(estimate(draws, 6, seen, known, weights) - truth)
    for found in errors.values():
        assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(600) + 0.003
    assert np.std(errors["with"]) < 0.7 * np.std(errors["without"])


def test_with_all_items_drawn_the_estimate_is_the_value() -> None:
    scores, predictions = scores_and_predictions(np.random.default_rng(1))
    draws = Draws.of(np.ones(300), 30, 0)
    found = estimate(draws, 30, scores[draws.order], predictions, np.ones(300))
    assert found == pytest.approx(scores.mean(), abs=1e-12)
