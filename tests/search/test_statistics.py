"""Intervals and p-values against closed forms, exhaustive enumeration and simulation."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from mergesearch.search.statistics import Array, Combine, Stratum, bootstrap, bootstrap_difference, swap_p

from ..tolerances import close, tolerance


def stratum(scores: np.ndarray, clusters: list[str] | None = None) -> Stratum:
    names = clusters or [str(i) for i in range(len(scores))]
    return Stratum.of(names, [1.0] * len(scores), scores.tolist())


def mean(*shares: float) -> Combine:
    return lambda values: np.tensordot(np.array(shares), values, 1)


ONE = mean(1.0)


def lowest(values: Array) -> Array:
    result: Array = values.min(axis=0)
    return result


def sign_flip_p(gains: np.ndarray, seed: int) -> float:
    return swap_p([stratum(gains)], [stratum(np.zeros(len(gains)))], ONE, seed)


def test_interval_of_a_mean_is_the_normal_one() -> None:
    scores = np.random.default_rng(0).normal(0.3, 2.0, size=400)
    found = bootstrap([stratum(scores)], ONE, seed=1)
    low, high = stats.norm.interval(0.95, scores.mean(), scores.std() / 20)
    assert found.value == close(scores.mean(), 400, magnitude=np.abs(scores).mean())
    # Of a standard error of 0.1: 10,000 resamples find its ends to 0.003, and the sample is a little skewed.
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02)


def test_strata_add_up_by_share() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.random(200), rng.random(300)
    found = bootstrap([stratum(one), stratum(two)], mean(0.75, -0.25), seed=1)
    error = np.sqrt((0.75 * one.std()) ** 2 / 200 + (0.25 * two.std()) ** 2 / 300)
    assert found.value == close(0.75 * one.mean() - 0.25 * two.mean(), 300, magnitude=1.0)
    # 10,000 resamples find the ends to 1.4 % of the width.
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.05)


def test_weighted_items_give_the_ratio_of_sums() -> None:
    rng = np.random.default_rng(0)
    weights, scores = rng.integers(1, 50, 100).astype(float), rng.random(100)
    found = bootstrap([Stratum.of([str(i) for i in range(100)], weights.tolist(), scores.tolist())], ONE, seed=0)
    assert found.value == close((weights * scores).sum() / weights.sum(), 200)
    assert found.low < found.value < found.high


def test_items_of_one_cluster_count_once() -> None:
    """Each item four times over is no more evidence than once."""
    scores = np.random.default_rng(0).random(100)
    names = [str(i) for i in range(100)]
    once = bootstrap([stratum(scores)], ONE, seed=0)
    often = bootstrap([stratum(np.repeat(scores, 4), clusters=[n for n in names for _ in range(4)])], ONE, seed=0)
    assert (often.low, often.high) == close((once.low, once.high), 200)


def test_coverage() -> None:
    """About 95 of 100 intervals hold the truth."""
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(200):
        found = bootstrap([stratum((rng.random(120) < 0.7).astype(float))], ONE, seed)
        held += found.low <= 0.7 <= found.high
    assert 180 <= held <= 199


def test_sign_flip_is_the_exhaustive_test() -> None:
    gains = np.random.default_rng(3).normal(0.4, 1.0, size=12)
    least = abs(gains.sum()) - tolerance(12, magnitude=np.abs(gains).sum())
    exact = np.mean([abs(np.dot(signs, gains)) >= least for signs in product((-1, 1), repeat=12)])
    # Three deviations of 10,000 draws.
    assert sign_flip_p(gains, seed=0) == pytest.approx(exact, abs=0.015)


def test_sign_flip_keeps_its_level() -> None:
    rng = np.random.default_rng(0)
    below = sum(sign_flip_p(rng.choice([-1.0, 0.0, 1.0], 80), seed) < 0.05 for seed in range(200))
    assert below <= 20


def test_no_difference_is_no_evidence() -> None:
    same = [stratum(np.random.default_rng(0).random(50))]
    assert swap_p(same, same, ONE, 0) == 1.0
    found = bootstrap_difference(same, same, ONE, 0)
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_same_seed_same_numbers() -> None:
    scores = stratum(np.random.default_rng(0).random(50))
    assert bootstrap([scores], ONE, 7) == bootstrap([scores], ONE, 7)
    assert bootstrap([scores], ONE, 7) != bootstrap([scores], ONE, 8)


def pair_of_tasks(rng: np.random.Generator, gain: float) -> tuple[list[Stratum], list[Stratum]]:
    """Two candidates on two tasks, where the second task decides the lowest value."""
    skill = rng.random((2, 300))
    one, two = ((skill + noise < level[:, None]).astype(float) for noise, level in _answers(rng, gain))
    return [stratum(row) for row in one], [stratum(row) for row in two]


def _answers(rng: np.random.Generator, gain: float) -> list[tuple[np.ndarray, np.ndarray]]:
    levels = np.array([[0.9, 0.5 + gain], [0.9, 0.5]])
    return [(rng.normal(0, 0.1, (2, 300)), level) for level in levels]


def test_a_difference_of_lowest_values_covers_the_truth() -> None:
    held = 0
    for seed in range(100):
        one, two = pair_of_tasks(np.random.default_rng(seed), gain=0.1)
        found = bootstrap_difference(one, two, lowest, seed)
        assert found.value == min(s.value for s in one) - min(s.value for s in two)
        held += found.low <= 0.1 <= found.high
    assert held >= 88


def test_swaps_keep_their_level_for_lowest_values() -> None:
    pairs = [pair_of_tasks(np.random.default_rng(seed), gain=0.0) for seed in range(200)]
    below = sum(swap_p(one, two, lowest, seed) < 0.05 for seed, (one, two) in enumerate(pairs))
    assert below <= 20
    one, two = pair_of_tasks(np.random.default_rng(0), gain=0.15)
    assert swap_p(one, two, lowest, 0) < 0.01


def test_the_bootstrap_of_equal_items_is_scipys() -> None:
    scores = np.random.default_rng(0).random(60)
    theirs = stats.bootstrap((scores,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(5))
    found = bootstrap([stratum(scores, [f"{i:02d}" for i in range(60)])], ONE, seed=5)
    assert (found.low, found.high) == pytest.approx(theirs.confidence_interval)


def test_a_stratum_of_one_cluster_does_not_vary() -> None:
    lone, scores = stratum(np.array([0.5, 0.7]), ["same", "same"]), np.random.default_rng(0).random(60)
    found = bootstrap([lone], ONE, seed=0)
    assert found.value == found.low == found.high == pytest.approx(0.6)
    two, one = bootstrap([stratum(scores), lone], mean(1.0, 1.0), seed=0), bootstrap([stratum(scores)], ONE, seed=0)
    assert (two.value, two.low, two.high) == pytest.approx((one.value + 0.6, one.low + 0.6, one.high + 0.6), abs=5e-3)


@pytest.mark.parametrize("combine", [mean(0.5, 0.5), lowest])
def test_swaps_are_scipys_permutation_test(combine: Combine) -> None:
    """Of the absolute difference, with samples that change sides in pairs; ten pairs, so that scipy's is exact."""
    rng = np.random.default_rng(2)
    one, two = rng.random((2, 5)) + 0.15, rng.random((2, 5))

    def value(scores: Array) -> Array:
        return combine(np.stack([scores[..., :5].mean(-1), scores[..., 5:].mean(-1)]))

    exact = stats.permutation_test(
        (one.ravel(), two.ravel()),
        lambda a, b, axis: np.abs(value(a) - value(b)),  # noqa: ARG005
        permutation_type="samples",
        n_resamples=np.inf,
        vectorized=True,
        alternative="greater",
    )
    found = swap_p([stratum(row) for row in one], [stratum(row) for row in two], combine, seed=0)
    assert 0.01 < exact.pvalue < 0.9
    assert found == pytest.approx(exact.pvalue, abs=0.015)
