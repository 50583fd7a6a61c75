"""Intervals and p-values against closed forms, exhaustive enumeration and simulation."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from mergesearch.search.statistics import Stratum, bootstrap, sign_flip_p


def stratum(scores: np.ndarray, share: float = 1.0, clusters: list[str] | None = None) -> Stratum:
    names = clusters or [str(i) for i in range(len(scores))]
    return Stratum.of(share, names, [1.0] * len(scores), scores.tolist())


def test_interval_of_a_mean_is_the_normal_one() -> None:
    scores = np.random.default_rng(0).normal(0.3, 2.0, size=400)
    found = bootstrap([stratum(scores)], seed=1)
    low, high = stats.norm.interval(0.95, scores.mean(), scores.std() / 20)
    assert found.value == pytest.approx(scores.mean())
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02)


def test_strata_add_up_by_share() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.random(200), rng.random(300)
    found = bootstrap([stratum(one, 0.75), stratum(two, -0.25)], seed=1)
    error = np.sqrt((0.75 * one.std()) ** 2 / 200 + (0.25 * two.std()) ** 2 / 300)
    assert found.value == pytest.approx(0.75 * one.mean() - 0.25 * two.mean())
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.05)


def test_weighted_items_give_the_ratio_of_sums() -> None:
    rng = np.random.default_rng(0)
    weights, scores = rng.integers(1, 50, 100).astype(float), rng.random(100)
    found = bootstrap([Stratum.of(1.0, [str(i) for i in range(100)], weights.tolist(), scores.tolist())], seed=0)
    assert found.value == pytest.approx((weights * scores).sum() / weights.sum())
    assert found.low < found.value < found.high


def test_items_of_one_cluster_count_once() -> None:
    """Each item four times over is no more evidence than once."""
    scores = np.random.default_rng(0).random(100)
    names = [str(i) for i in range(100)]
    once = bootstrap([stratum(scores)], seed=0)
    often = bootstrap([stratum(np.repeat(scores, 4), clusters=[n for n in names for _ in range(4)])], seed=0)
    assert (often.low, often.high) == pytest.approx((once.low, once.high), abs=1e-3)


def test_coverage() -> None:
    """About 95 of 100 intervals hold the truth."""
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(200):
        found = bootstrap([stratum((rng.random(120) < 0.7).astype(float))], seed)
        held += found.low <= 0.7 <= found.high
    assert 180 <= held <= 199


def test_sign_flip_is_the_exhaustive_test() -> None:
    gains = np.random.default_rng(3).normal(0.4, 1.0, size=12)
    exact = np.mean([abs(np.dot(signs, gains)) >= abs(gains.sum()) - 1e-12 for signs in product((-1, 1), repeat=12)])
    assert sign_flip_p([stratum(gains)], seed=0) == pytest.approx(exact, abs=0.015)


def test_sign_flip_keeps_its_level() -> None:
    rng = np.random.default_rng(0)
    below = sum(sign_flip_p([stratum(rng.choice([-1.0, 0.0, 1.0], 80))], seed) < 0.05 for seed in range(200))
    assert below <= 20


def test_no_difference_is_no_evidence() -> None:
    same = [stratum(np.zeros(50))]
    assert sign_flip_p(same, 0) == 1.0
    found = bootstrap(same, 0)
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_same_seed_same_numbers() -> None:
    scores = stratum(np.random.default_rng(0).random(50))
    assert bootstrap([scores], 7) == bootstrap([scores], 7)
    assert bootstrap([scores], 7) != bootstrap([scores], 8)
