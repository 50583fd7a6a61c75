"""Numbers, variances and shares of them against closed forms."""

import numpy as np
import pytest

from mergesearch.search.statistics import Array, Combine, Stratum, detectable_difference, difference_of, value_of

from ...tolerances import close


def stratum(scores: Array, prefix: str = "", weights: Array | None = None) -> Stratum:
    """Every score is a cluster of its own."""
    shares = np.ones(len(scores)) if weights is None else weights
    return Stratum.of([f"{prefix}{n:04d}" for n in range(len(scores))], shares.tolist(), scores.tolist())


def mean(*shares: float) -> Combine:
    return lambda values: np.tensordot(np.array(shares), values, 1)


def test_weighted_items_give_the_ratio_of_sums() -> None:
    rng = np.random.default_rng(0)
    weights, scores = rng.integers(1, 50, 100).astype(float), rng.random(100)
    found = Stratum.of([str(n // 3) for n in range(100)], weights.tolist(), scores.tolist())
    assert found.value == close((weights * scores).sum() / weights.sum(), 200)
    assert len(found.clusters) == 34
    assert found.influence.sum() == close(0.0, 200, magnitude=1.0)


def test_the_standard_error_of_weighted_means_is_that_of_independent_samples() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.random(200), rng.random(30)
    found = value_of([stratum(one, "a"), stratum(two, "b")], mean(0.75, -0.25))
    variances = np.array([0.75**2 * one.var(ddof=1) / 200, 0.25**2 * two.var(ddof=1) / 30])
    assert found.value == close(0.75 * one.mean() - 0.25 * two.mean(), 300, magnitude=1.0)
    assert found.standard_error == pytest.approx(np.sqrt(variances.sum()), rel=1e-9)
    assert found.variance_shares == pytest.approx(variances / variances.sum(), rel=1e-9)
    welch = variances.sum() ** 2 / (variances**2 / np.array([199, 29])).sum()
    assert found.degrees == pytest.approx(welch, rel=1e-9)


def test_one_text_in_two_tasks_is_one_cluster() -> None:
    """A task with two metrics that agree is as sure as one of them; with clusters of its own, it would be surer."""
    scores = np.random.default_rng(0).random(50)
    once = value_of([stratum(scores)], mean(1.0))
    twice = value_of([stratum(scores), stratum(scores)], mean(0.5, 0.5))
    apart = value_of([stratum(scores, "a"), stratum(scores, "b")], mean(0.5, 0.5))
    assert twice.standard_error == pytest.approx(once.standard_error, rel=1e-9)
    assert apart.standard_error == pytest.approx(once.standard_error / np.sqrt(2), rel=1e-9)
    assert twice.variance_shares == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("kind", ["min", "geometric_mean", "floor"])
def test_the_influence_of_other_objectives_is_their_derivative(kind: str) -> None:
    objectives: dict[str, Combine] = {
        "min": lambda values: np.asarray(values.min(axis=0)),
        "geometric_mean": lambda values: np.exp(np.log(values).mean(axis=0)),
        "floor": lambda values: np.maximum(0.0, (values - 0.25) / 0.75).mean(axis=0),
    }
    rng = np.random.default_rng(1)
    one, two = rng.random(400) * 0.4, rng.random(400) * 0.4 + 0.5
    found = value_of([stratum(one, "a"), stratum(two, "b")], objectives[kind])
    geometric = np.sqrt(one.mean() * two.mean()) / 2
    slopes = {
        "min": [1.0, 0.0],
        "geometric_mean": [geometric / one.mean(), geometric / two.mean()],
        "floor": [0.0, 0.5 / 0.75],
    }[kind]
    assert [np.abs(part).sum() for part in found.influence] == pytest.approx(
        [slope * np.abs(scores - scores.mean()).mean() for slope, scores in zip(slopes, (one, two), strict=True)],
        rel=1e-3,  # a secant as wide as two standard errors, of 0.006 here
        abs=1e-12,
    )


def test_a_lone_cluster_varies_in_a_difference() -> None:
    lone, zero = (Stratum.of(["a", "a"], [1.0, 1.0], [value, value]) for value in (0.6, 0.5))
    scores = stratum(np.random.default_rng(0).random(60), "b")
    assert value_of([scores, lone], mean(0.5, 0.5)).standard_error == pytest.approx(
        value_of([scores], mean(0.5)).standard_error
    )
    assert difference_of([lone], [zero], mean(1.0)).standard_error == pytest.approx(0.1)


def test_what_can_be_detected_is_detected_as_often() -> None:
    rng = np.random.default_rng(0)
    gain = detectable_difference(1 / np.sqrt(20), 19, power=0.8)
    samples = rng.normal(gain, 1.0, (20_000, 20))
    t = samples.mean(1) / samples.std(1, ddof=1) * np.sqrt(20)
    assert (t > 2.093).mean() == pytest.approx(0.8, abs=0.02)
