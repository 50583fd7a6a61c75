"""Surveys of a candidate, over many draws of its items."""

import numpy as np
import pytest

from mergesearch.search.scoring.racing.draws import Draws
from mergesearch.search.scoring.racing.survey import Survey
from mergesearch.search.statistics import Array

ITEMS, DRAWN = 300, 100
SHARES = np.repeat(np.eye(2), ITEMS // 2, axis=1) / (ITEMS // 2)


def survey(draws: Draws, metric: Array, grades: Array, expected: Array) -> Survey:
    """After DRAWN draws, where nothing is known of the metric less grades."""
    seen = np.isin(np.arange(ITEMS), draws.order[:DRAWN])
    return Survey(
        known=np.where(seen, metric, expected),
        grades=np.where(seen, grades - expected, 0.0),
        biases=np.where(seen, metric - grades, 0.0),
        typical=np.zeros(ITEMS),
        prior=(np.zeros(2), 100.0 * np.eye(2)),
        seen=seen,
        odds=draws.odds(DRAWN),
        shares=SHARES,
    )


@pytest.mark.parametrize("slopes", [[0.5, 0.5], [0.7, -0.3]])
def test_surveys_are_right_on_average_and_err_as_they_say_where_the_foretold_grades_are_wrong(
    slopes: list[float],
) -> None:
    rng = np.random.default_rng(0)
    metric, rates = rng.integers(0, 2, ITEMS).astype(float), rng.uniform(0.5, 2.0, ITEMS)
    grades = np.clip(0.8 * metric + 0.1 + 0.1 * rng.normal(size=ITEMS), 0, 1)
    expected = np.clip(grades + 0.2 + 0.3 * rng.normal(size=ITEMS), 0, 1)
    found = [survey(Draws.of(rates, seed), metric, grades, expected).combined(np.array(slopes)) for seed in range(2000)]
    errors = np.array([value for value, _ in found]) - np.array(slopes) @ SHARES @ metric
    assert abs(errors.mean()) < 0.15 * errors.std()
    said = np.sqrt(np.mean([deviation**2 for _, deviation in found]))
    assert said == pytest.approx(errors.std(), rel=0.15)


def test_tasks_without_weight_add_nothing() -> None:
    metric = np.ones(ITEMS)
    found = survey(Draws.of(np.ones(ITEMS), 0), metric, metric, metric).combined(np.zeros(2))
    assert found == pytest.approx((0.0, 0.0), abs=1e-5)


def test_what_is_known_of_the_bias_replaces_what_few_items_show() -> None:
    rng = np.random.default_rng(0)
    metric, grades = rng.integers(0, 2, ITEMS).astype(float), np.full(ITEMS, 0.5)
    one = survey(Draws.of(np.ones(ITEMS), 0), metric, grades, grades)
    slopes = np.array([0.5, 0.5])
    told = Survey(**(vars(one) | {"prior": (np.zeros(2), np.zeros((2, 2)))}))
    assert told.combined(slopes)[1] < 0.01 < one.combined(slopes)[1]
    assert told.combined(slopes)[0] == pytest.approx(slopes @ SHARES @ one.known, abs=1e-6)
