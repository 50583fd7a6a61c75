"""Objectives against their formulas, one task and one resample at a time."""

import numpy as np
import pytest

from mergesearch.errors import UserError
from mergesearch.evaluators import Metric
from mergesearch.search.problem.objective import Aggregation, Objective, Share

from ...tolerances import close

UP, DOWN = Metric("acc"), Metric("bits", higher_is_better=False)
VALUES = np.random.default_rng(0).uniform(0.05, 1.0, size=(3, 4, 5))


def shares(*weights: float, metric: Metric = UP) -> list[Share]:
    return [Share(f"t{n}", weight, metric) for n, weight in enumerate(weights)]


def naive(aggregate: Aggregation, weights: list[float], values: list[float]) -> float:
    if aggregate == "min":
        return min(values)
    if aggregate == "mean":
        return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    return float(np.prod([v ** (w / sum(weights)) for w, v in zip(weights, values, strict=True)]))


@pytest.mark.parametrize("aggregate", ["mean", "min", "geometric_mean"])
def test_each_resample_is_combined_by_itself(aggregate: Aggregation) -> None:
    weights = [1.0, 1.0, 1.0] if aggregate == "min" else [1.0, 2.5, 0.5]
    up, down = (Objective(shares(*weights, metric=metric), aggregate).combine(VALUES) for metric in (UP, DOWN))
    assert up.shape == VALUES.shape[1:]
    for place in np.ndindex(VALUES.shape[1:]):
        column = [float(row[place]) for row in VALUES]
        assert up[place] == close(naive(aggregate, weights, column), 16)
        worst = -max(column) if aggregate == "min" else -naive(aggregate, weights, column)
        assert down[place] == close(worst, 16)


def test_the_mean_turns_the_sign_of_what_is_better_when_lower() -> None:
    found = Objective([Share("a", 1, UP), Share("b", 3, DOWN)]).combine(np.array([0.8, 2.0]))
    assert float(found) == close((0.8 - 6.0) / 4, 8)


def test_leaderboard_scores_are_those_of_the_open_llm_leaderboard() -> None:
    """Its documentation's own examples: MuSR's three subtasks, each with its own lower bound, and GPQA."""
    musr = [Share("murder", 1, UP, [0.5]), Share("place", 1, UP, [0.2]), Share("team", 1, UP, [0.333])]
    subtasks = [0.4, 0.25, (0.6 - 0.333) / 0.667]
    assert float(Objective(musr).combine(np.array([0.7, 0.4, 0.6]))) == close(sum(subtasks) / 3, 16)
    gpqa = float(Objective([Share("gpqa", 1, UP, [0.25])]).combine(np.array([0.6])))
    assert gpqa == pytest.approx(0.466667, abs=5e-7), "which has six digits"
    assert float(Objective([Share("gpqa", 1, UP, [0.25])]).combine(np.array([0.1]))) == 0.0


def test_a_group_is_normalised_subtask_by_subtask() -> None:
    """Each by its own chance, floored, and then averaged; for several resamples at once, beside a task without."""
    group = [Share("musr", 1, UP, [0.5, 0.2, 0.333]), Share("plain", 3, UP)]
    rows = np.array([[0.7, 0.4], [0.4, 0.9], [0.6, 0.333], [0.5, 0.1]])
    first, second = (0.4 + 0.25 + 0.267 / 0.667) / 3, (0.0 + 0.875 + 0.0) / 3
    expected = [(first + 3 * 0.5) / 4, (second + 3 * 0.1) / 4]
    assert Objective(group).combine(rows) == close(expected, 16)


def test_values_are_floored_before_they_are_aggregated() -> None:
    two = [Share("a", 1, UP, [0.5]), Share("b", 1, UP)]
    assert float(Objective(two).combine(np.array([0.0, 1.0]))) == 0.5
    assert float(Objective(two, "geometric_mean").combine(np.array([0.4, 1.0]))) == 0.0


def test_a_geometric_mean_of_what_is_below_zero_is_zero() -> None:
    assert float(Objective(shares(1, 1), "geometric_mean").combine(np.array([-0.2, 0.9]))) == 0.0


@pytest.mark.parametrize("aggregate", ["min", "geometric_mean"])
def test_tasks_of_both_directions_are_refused(aggregate: Aggregation) -> None:
    with pytest.raises(UserError, match=f"{aggregate} needs tasks .*lower is better for b: "):
        Objective([Share("a", 1, UP), Share("b", 1, DOWN)], aggregate)


def test_a_minimum_by_weight_is_refused() -> None:
    with pytest.raises(UserError, match="takes no weights but 0 and 1, found t0 1, t1 2"):
        Objective(shares(1, 2), "min")


def test_what_is_better_when_lower_is_not_normalised() -> None:
    with pytest.raises(UserError, match="task 'b' has the metric bits, where lower is better"):
        Objective([Share("b", 1, DOWN, [0.0])])
