"""The bandwidth is chosen by how well grades foretell the metric on other items."""

from itertools import combinations

import numpy as np
import pytest

from mergesearch.search.signal.bandwidth import BANDWIDTHS, USUAL, choose_bandwidth, foretold
from mergesearch.search.statistics import Array

from ...tolerances import close

SEEDS = range(3)


def sums(margins: Array) -> tuple[Array, Array, Array]:
    """Of [candidates, items], each item a cluster: as ``choose_bandwidth`` takes them."""
    own = np.sqrt(np.square(margins).mean(1, keepdims=True))
    right = (margins > 0).astype(float)
    grades = [right, *(1 / (1 + np.exp(-margins / (bandwidth * own))) for bandwidth in BANDWIDTHS[1:])]
    return np.stack(grades), right, np.ones(margins.shape[1])


def misleading(rng: np.random.Generator, candidates: int = 32) -> Array:
    """Better candidates are unsure where they are right, and sure where they are wrong."""
    accuracy = np.linspace(0.45, 0.7, candidates)[:, None]
    right = rng.random((candidates, 400)) < accuracy
    return np.where(right, 1.2 - accuracy, -0.2 - 1.5 * accuracy) * rng.uniform(0.8, 1.2, right.shape)


def shifted(rng: np.random.Generator, candidates: int = 100) -> Array:
    """Candidates differ by a shift of uniform margins, all of which tell of it alike."""
    return np.linspace(-0.05, 0.05, candidates)[:, None] + rng.uniform(-1, 1, size=(candidates, 1000))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_metric_is_taken_where_grades_mislead(seed: int) -> None:
    choice = choose_bandwidth(BANDWIDTHS, *sums(misleading(np.random.default_rng(seed))))
    assert choice.bandwidth == 0
    assert "better than 0.35 (32 candidates)" in choice.reason


@pytest.mark.parametrize("seed", SEEDS)
def test_a_wide_bandwidth_is_taken_where_every_margin_counts(seed: int) -> None:
    assert choose_bandwidth(BANDWIDTHS, *sums(shifted(np.random.default_rng(seed)))).bandwidth >= 1


@pytest.mark.parametrize("candidates", [2, 7])
def test_few_candidates_tell_nothing(candidates: int) -> None:
    choice = choose_bandwidth(BANDWIDTHS, *sums(misleading(np.random.default_rng(0), candidates)))
    assert choice.bandwidth == USUAL
    assert "too few" in choice.reason


def test_candidates_that_do_not_differ_leave_the_usual_bandwidth() -> None:
    one = np.random.default_rng(0).normal(size=(1, 400))
    assert choose_bandwidth(BANDWIDTHS, *sums(one.repeat(12, 0))).bandwidth == USUAL
    noise = np.random.default_rng(0).normal(size=(12, 400))
    assert choose_bandwidth(BANDWIDTHS, *sums(noise)).bandwidth == USUAL


def test_what_is_foretold_is_the_covariance_over_all_pairs_of_clusters() -> None:
    rng = np.random.default_rng(0)
    grades, metric, sizes = rng.normal(size=(1, 5, 6)), rng.normal(size=(5, 6)), np.arange(1.0, 7.0)
    one, two = grades[0] - grades[0].mean(0), metric - metric.mean(0)
    pairs = [*combinations(range(6), 2), *((b, a) for a, b in combinations(range(6), 2))]
    together = sum(one[:, a] @ two[:, b] for a, b in pairs) / sum(sizes[a] * sizes[b] for a, b in pairs)
    expected = together / (np.linalg.norm(one.sum(1)) / sizes.sum())
    assert foretold(grades, metric, sizes)[0] == close(expected, 200, magnitude=10)
