"""The test and its interval against exhaustive enumeration, scipy and simulation."""

from itertools import product

import numpy as np
import pytest
from scipy import optimize, stats

from mergesearch.search.statistics import (
    Array,
    Combine,
    Contrast,
    Outcome,
    Stratum,
    against_all,
    difference_of,
    estimated,
    sign_flip_test,
    value_of,
)

from ...tolerances import tolerance


def stratum(scores: Array, prefix: str = "", weights: Array | None = None) -> Stratum:
    """Every score is a cluster of its own."""
    shares = np.ones(len(scores)) if weights is None else weights
    return Stratum.of([f"{prefix}{n:04d}" for n in range(len(scores))], shares.tolist(), scores.tolist())


def mean(*shares: float) -> Combine:
    return lambda values: np.tensordot(np.array(shares), values, 1)


ONE = mean(1.0)


def gain_of(gains: Array, weights: Array | None = None) -> Contrast:
    return difference_of([stratum(gains, weights=weights)], [stratum(np.zeros(len(gains)), weights=weights)], ONE)


def exact_p(gains: Array, delta: float = 0.0) -> float:
    """Flips the signs of all gains minus delta, in every way."""
    centred = gains - delta
    least = abs(centred.sum()) - tolerance(len(gains), magnitude=np.abs(centred).sum())
    return float(np.mean([abs(np.dot(signs, centred)) >= least for signs in product((-1, 1), repeat=len(gains))]))


def test_p_is_the_exhaustive_one() -> None:
    for seed in range(5):
        gains = np.random.default_rng(seed).normal(0.4, 1.0, size=10)
        (found,) = sign_flip_test([gain_of(gains)], 0)
        assert found.p == pytest.approx(exact_p(gains))
        assert found.p == pytest.approx(
            stats.permutation_test(
                (gains, np.zeros(10)),
                lambda one, two, axis: np.abs((one - two).mean(axis)),
                permutation_type="samples",
                alternative="greater",
                n_resamples=np.inf,
                vectorized=True,
            ).pvalue
        )


def test_the_interval_has_what_the_test_does_not_reject() -> None:
    gains = np.random.default_rng(3).exponential(1.0, size=11) - 0.3
    (found,) = sign_flip_test([gain_of(gains)], 0)
    inside, outside = (gains.mean() + step for step in (0.0, 9.0))
    high = optimize.bisect(lambda delta: exact_p(gains, delta) - 0.05, inside, outside, xtol=1e-9)
    low = optimize.bisect(lambda delta: exact_p(gains, delta) - 0.05, inside - 9.0, inside, xtol=1e-9)
    assert (found.estimate.low, found.estimate.high) == pytest.approx((low, high), abs=1e-6)


def test_many_clusters_give_students_interval() -> None:
    gains = np.random.default_rng(0).normal(0.1, 1.0, size=400)
    (found,) = sign_flip_test([gain_of(gains)], 0)
    expected = stats.ttest_1samp(gains, 0.0)
    # 10,000 flips find a p near .05 to .004, and the ends of an interval to about 2 % of its width.
    assert found.p == pytest.approx(expected.pvalue, abs=0.015)
    low, high = expected.confidence_interval()
    assert (found.estimate.low, found.estimate.high) == pytest.approx((low, high), abs=0.01)


def test_a_difference_of_a_few_items_takes_six() -> None:
    """Of 2,000 items, whatever they are: five that are all right by one candidate alone are chance once in 16 times."""
    for items, is_proven in ((5, False), (6, True)):
        gains = np.zeros(2000)
        gains[:items] = 1.0
        (found,) = sign_flip_test([gain_of(gains)], 0)
        assert (found.p < 0.05) is is_proven
        assert found.p == pytest.approx(0.5 ** (items - 1), abs=0.008)


def test_no_difference_is_no_evidence() -> None:
    same = [stratum(np.random.default_rng(0).random(50))]
    (found,) = sign_flip_test([difference_of(same, same, ONE)], 0)
    assert (found.p, found.p_together) == (1.0, 1.0)
    assert (found.estimate.low, found.estimate.high) == (0.0, 0.0)


def test_few_clusters_bound_nothing() -> None:
    for clusters, is_unbounded in ((1, True), (5, True), (6, False)):
        (found,) = sign_flip_test([gain_of(np.ones(clusters))], 0)
        assert found.estimate.is_unbounded is is_unbounded
        assert (found.p < 0.05) is not is_unbounded


def test_same_seed_same_numbers() -> None:
    scores = value_of([stratum(np.random.default_rng(0).random(50))], ONE)
    assert estimated(scores, 7) == estimated(scores, 7)
    assert estimated(scores, 7) != estimated(scores, 8)


def test_intervals_of_values_cover_the_truth() -> None:
    rng, held = np.random.default_rng(0), 0
    for seed in range(400):
        found = estimated(value_of([stratum((rng.random(60) < 0.7).astype(float))], ONE), seed)
        held += found.low <= 0.7 <= found.high
    assert 364 <= held <= 394, "95 % are 380, with a standard deviation of 4.4"


def random_table(rng: np.random.Generator, baselines: int) -> list[Contrast]:
    """A winner and baselines on two tasks, of few or many clusters, with gains of every size."""
    sizes, weights = rng.integers(2, 40, 2), rng.dirichlet([1.0, 1.0])
    gain = rng.choice([-1.0, 0.0, 0.3, 1.0]) * rng.random()
    counts = [rng.integers(1, 20, size).astype(float) for size in sizes]
    scores = [rng.normal(0.0, 1.0, (baselines, size)) for size in sizes]
    scores = [np.round(rows, 1) if rng.random() < 0.3 else rows for rows in scores]

    def candidate(rows: list[Array]) -> list[Stratum]:
        return [stratum(row, name, count) for row, name, count in zip(rows, "ab", counts, strict=True)]

    winner = candidate([np.full(size, gain) for size in sizes])
    combine: Combine = mean(*weights) if rng.random() < 0.7 else lambda values: np.asarray(values.min(axis=0))
    return [difference_of(winner, candidate([rows[n] for rows in scores]), combine) for n in range(baselines)]


def test_interval_and_p_never_contradict_each_other() -> None:
    rng, proven, refuted = np.random.default_rng(0), 0, 0
    for seed in range(150):
        found = sign_flip_test(random_table(rng, int(rng.integers(1, 5))), seed)
        for each in found:
            for estimate, p in ((each.estimate, each.p), (each.together, each.p_together)):
                assert (p < 0.05) == (not estimate.low <= 0.0 <= estimate.high)
                assert estimate.low <= estimate.value <= estimate.high
            assert each.p <= each.p_together
        whole, p = against_all(found)
        assert whole.low <= whole.value <= whole.high
        assert (p < 0.05) == (not whole.low <= 0.0 <= whole.high)
        assert (whole.low > 0) == all(each.p < 0.05 and each.estimate.value > 0 for each in found)
        assert whole.value == min(each.estimate.value for each in found)
        proven, refuted = proven + (whole.low > 0), refuted + (whole.high < 0)
    assert min(proven, refuted) > 5


def all_tested(gains: Array, seed: int) -> list[Outcome]:
    """gains: [baselines, clusters], the winner's over each."""
    return sign_flip_test([gain_of(row) for row in gains], seed)


def test_claims_against_all_keep_their_level() -> None:
    """Three baselines with common noise, one of which is as good as the winner, or all of which are."""
    for others in (0.0, 3.0):
        rng, better, any_single, worse = np.random.default_rng(0), 0, 0, 0
        for seed in range(400):
            noise = rng.normal(0.0, 1.0, (3, 12)) + rng.normal(0.0, 1.0, 12)
            found = all_tested(noise + np.array([[0.0], [others], [others]]), seed)
            whole, _ = against_all(found)
            better, worse = better + (whole.low > 0), worse + (whole.high < 0)
            any_single += any(each.p_together < 0.05 for each in (found[:1] if others else found))
        assert better <= 20
        assert worse <= 20
        assert any_single <= 32, "5 % are 20, with a standard deviation of 4.4"


@pytest.mark.parametrize("clusters", [8, 25])
def test_the_level_with_few_clusters_of_unequal_sizes(clusters: int) -> None:
    rng, rejected = np.random.default_rng(clusters), 0
    for seed in range(400):
        weights = np.exp(rng.normal(0.0, 1.0, clusters))
        rejected += sign_flip_test([gain_of(rng.normal(0.0, 1.0, clusters), weights)], seed)[0].p < 0.05
    assert rejected <= 32, "5 % are 20, with a standard deviation of 4.4"


def test_tasks_that_differ_are_no_noise() -> None:
    """Opposite gains on two tasks are not taken for noise: the interval is as wide as within the tasks."""
    rng = np.random.default_rng(0)
    one, two = rng.normal(1.0, 0.1, 60), rng.normal(-0.9, 0.1, 60)
    zero = [stratum(np.zeros(60), name) for name in "ab"]
    (found,) = sign_flip_test([difference_of([stratum(one, "a"), stratum(two, "b")], zero, mean(0.5, 0.5))], 0)
    width = 2 * 1.96 * 0.1 / np.sqrt(120)
    assert found.p < 0.001
    assert found.estimate.high - found.estimate.low == pytest.approx(width, rel=0.2)
