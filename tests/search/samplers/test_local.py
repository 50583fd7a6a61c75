"""The Gaussian process of the sampler ``local``, and what it learns from."""

from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState
from scipy.optimize import check_grad

from mergesearch.search.samplers import Branch, HasCentre, SamplerRequest, make_sampler
from mergesearch.search.samplers._gaussian_process import GaussianProcess
from mergesearch.search.samplers._observations import OWN, Encoding, observations
from mergesearch.search.statistics import Array
from mergesearch.search.study import trials as t

RANGES = {"x": FloatDistribution(0, 2), "y": FloatDistribution(0, 1)}
BRANCH = Branch(RANGES, {}, {})


def hill(points: Array) -> Array:
    """The top is at 0.6 of the first dimension; the others do nothing."""
    return -np.square(points[:, 0] - 0.6)


def process(noise: float, count: int = 80, dimensions: int = 20) -> GaussianProcess:
    rng = np.random.default_rng(0)
    points = rng.random((count, dimensions))
    values = hill(points) + noise * rng.standard_normal(count)
    return GaussianProcess(points, values, np.full(count, max(noise, 1e-3) ** 2))


def test_the_posterior_follows_the_values_where_the_noise_is_known_to_be_small() -> None:
    rng = np.random.default_rng(0)
    points, values = rng.random((30, 3)), rng.standard_normal(30)
    variances = np.full(30, 1e-6)
    variances[0] = 1e6
    model = GaussianProcess(points, values, variances)
    assert np.abs(model.mean(points[1:]) - values[1:]).max() < 0.05
    assert model.deviation(points[1:]).max() < 0.05 < model.deviation(points[:1])[0]


def test_many_dimensions_and_noise_leave_the_direction() -> None:
    model = process(noise=0.1)
    line = np.full((3, 20), 0.5)
    line[:, 0] = (0.0, 0.3, 0.6)
    low, middle, high = model.mean(line)
    assert low < middle < high


def test_the_lower_bound_is_the_mean_less_deviations_and_falls_away_from_the_points() -> None:
    model, rng = process(noise=0.1), np.random.default_rng(1)
    point = rng.random(20)
    bound, _ = model.lower_bound(point, 2.0)
    assert abs(bound - (model.mean(point[None]) - 2 * model.deviation(point[None]))[0]) < 1e-9
    assert model.lower_bound(np.full(20, 9.0), 2.0)[0] < bound


def test_gradients() -> None:
    model, rng = process(noise=0.1), np.random.default_rng(1)
    for start in (rng.random(20), rng.random(20)):
        error = check_grad(lambda at: model.lower_bound(at, 2.0)[0], lambda at: model.lower_bound(at, 2.0)[1], start)
        assert error < 1e-3 * float(np.linalg.norm(model.lower_bound(start, 2.0)[1]))
        logs = rng.standard_normal(3)
        error = check_grad(lambda at: model._loss(at)[0], lambda at: model._loss(at)[1], logs)
        assert error < 1e-3 * float(np.linalg.norm(model._loss(logs)[1]))


def test_an_encoding_is_turned_back() -> None:
    free = {**RANGES, "choice": CategoricalDistribution((True, "b", 3))}
    encoding = Encoding(free)
    for choice in (True, "b", 3):
        point = {"x": 0.5, "y": 0.25, "choice": choice}
        assert encoding.decode(encoding.encode([point])[0]) == point
    one, two = encoding.encode([{"x": 0.5, "y": 0.25, "choice": choice} for choice in ("b", 3)])
    assert abs(np.linalg.norm(one - two) - 1) < 1e-12


def study_of(*trials: dict[str, Any]) -> optuna.Study:
    study = optuna.create_study(direction="maximize")
    for number, fields in enumerate(trials):
        params = fields.pop("params", {"x": number / 20, "y": 0.5})
        study.add_trial(optuna.trial.create_trial(params=params, distributions=RANGES if params else {}, **fields))
    return study


def test_what_is_learned_from() -> None:
    study = study_of(
        {"value": 0.9, "params": {}},
        {"value": 0.5, "user_attrs": {t.KIND: t.BASELINE, t.ITEMS: 400}},
        {"value": 0.3, "state": TrialState.PRUNED, "user_attrs": {t.ITEMS: 100}},
        {"state": TrialState.FAIL, "user_attrs": {t.REASON: "nan"}},
        {"state": TrialState.FAIL, "user_attrs": {t.REASON: t.INTERRUPTED}},
        {"value": 0.5, "user_attrs": {t.SAME_AS: "uniform soup"}},
        {"value": 0.8, "constraints": {"size": 2.0}, "user_attrs": {t.ITEMS: 400}},
    )
    known = observations(study, BRANCH, Encoding(RANGES))
    assert known.points[:, 0].tolist() == [0.025, 0.05, 0.075, 0.15]
    assert known.values.tolist() == [0.5, 0.3, 0.3, 0.3], "what failed or violates is no better than the worst"
    assert (known.variances / known.variances[0]).round(9).tolist() == [1, 4, 1, 1]


def test_standard_errors_are_used_where_trials_tell_them() -> None:
    study = study_of(
        *({"value": 0.5, "user_attrs": {t.STANDARD_ERROR: error, t.ITEMS: 100}} for error in (0.01, 0.02, 0.03)),
        {"value": 0.5, "user_attrs": {t.ITEMS: 25}},
    )
    variances = observations(study, BRANCH, Encoding(RANGES)).variances
    assert (1e4 * variances / OWN).round(9).tolist() == [1, 4, 9, 16]


def test_the_better_half_and_the_latest_are_kept() -> None:
    study = study_of(*({"value": float(number % 7), "user_attrs": {t.ITEMS: 9}} for number in range(40)))
    known = observations(study, BRANCH, Encoding(RANGES))
    assert known.some(40) is known
    some = known.some(10)
    assert len(some) == 10
    assert sorted(some.values)[-5:] == [6.0] * 5
    assert some.points[-1].tolist() == known.points[-1].tolist()


def test_points_are_near_the_best_one_from_the_first_on() -> None:
    """There are no random points to begin with: one baseline in the space is enough."""
    study = study_of({"value": 0.5, "params": {"x": 1.0, "y": 0.5}, "user_attrs": {t.KIND: t.BASELINE}})
    for number in range(6):
        study.sampler = make_sampler("local", SamplerRequest([BRANCH], 0, number, sigma=0.01))
        point = study.ask(RANGES).params
        assert abs(point["x"] / 2 - 0.5) < 0.05
        assert abs(point["y"] - 0.5) < 0.05


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_the_centre_climbs_whether_the_scores_have_noise_or_not(noise: float) -> None:
    """From a distance of 0.2 in each of twelve dimensions, whose square is 0.48."""
    ranges = {f"x{number}": FloatDistribution(0, 1) for number in range(12)}
    study, rng = optuna.create_study(direction="maximize"), np.random.default_rng(0)
    for number in range(81):
        sampler = make_sampler("local", SamplerRequest([Branch(ranges, {}, {})], 0, number))
        if number == 0:
            study.enqueue_trial(dict.fromkeys(ranges, 0.4))
        study.sampler = sampler
        trial = study.ask(ranges)
        study.tell(trial, -sum((x - 0.6) ** 2 for x in trial.params.values()) + noise * rng.standard_normal())
    assert isinstance(sampler, HasCentre)
    centre = sampler.centre(study)
    assert centre is not None
    assert sum((x - 0.6) ** 2 for x in centre.values()) < (0.02 if noise == 0 else 0.12)
