"""M2N2: the paper's formulas on examples by hand, and what the sampler makes of them."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.study import Study

from mergesearch.search.samplers import Branch, SamplerRequest, make_sampler
from mergesearch.search.samplers.niches import Population, cross, depths
from mergesearch.search.statistics import Array

ROWS = np.array([[1.0, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 0, 0, 1, 0]])
"""Of five items, two merges solve the same three, and a third one solves two, one of them alone."""


def population(scores: Array) -> Population:
    """Candidates that are at 0, 1, 2, ... of the only dimension."""
    return Population(np.arange(len(scores), dtype=float)[:, None], scores)


def test_an_items_worth_is_shared_among_those_that_solve_it() -> None:
    assert population(ROWS).fitness == pytest.approx([1 / 3 + 1 / 2 + 1 / 2, 4 / 3, 1 / 3 + 1])


def test_mates_are_attractive_by_what_the_other_one_does_not_solve() -> None:
    assert population(ROWS).attraction(0) == pytest.approx([0, 0, 1])
    assert population(ROWS).attraction(2) == pytest.approx([1, 1, 0])


def test_an_item_counts_by_the_best_score_on_it() -> None:
    scores = np.array([[0.2, 0.0], [0.6, 0.9]])
    assert population(scores).fitness == pytest.approx([0.6 * 0.2 / 0.8, 0.6 * 0.6 / 0.8 + 0.9])
    assert population(scores).attraction(0) == pytest.approx([0, 0.6 * 0.4 / 0.8 + 0.9 * 0.9 / 0.9])


def test_who_solves_less_but_alone_survives() -> None:
    scores = np.array([[1.0, 1, 1, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 1, 1]])
    assert population(scores).survivors(2).points[:, 0].tolist() == [1, 2]
    assert population(scores[[2, 0, 1]]).survivors(2).points[:, 0].tolist() == [0, 2]
    assert len(population(scores).survivors(3).points) == 3


def test_a_child_changes_sides_at_the_split_point() -> None:
    first, second, positions = np.zeros(4), np.ones(4), np.array([0.1, 0.4, 0.6, 0.9])
    assert cross(first, second, 0.25, 0.5, positions) == pytest.approx([0.25, 0.25, 0.75, 0.75])
    assert cross(first, second, 0.25, 0.0, positions) == pytest.approx([0.75] * 4)
    assert cross(first, second, 0.0, 0.5, positions) == pytest.approx([0, 0, 1, 1])


def test_dimensions_have_the_depth_that_their_names_tell() -> None:
    names = ["code.weight[0]", "math.weight.mlp[1]", "code.weight[1]", "math.weight.mlp[0]", "lambda", "code.density"]
    assert depths(names) == pytest.approx(
        {
            "code.weight[0]": 0.25,
            "code.weight[1]": 0.75,
            "math.weight.mlp[0]": 0.25,
            "math.weight.mlp[1]": 0.75,
            "lambda": 0.25,
            "code.density": 0.75,
        }
    )
    sliced = depths([f"slice{number}.code.weight" for number in (10, 2, 0)])
    assert sorted(sliced, key=lambda name: sliced[name]) == [f"slice{number}.code.weight" for number in (0, 2, 10)]


SPACE = {f"x[{layer}]": FloatDistribution(0, 1) for layer in range(8)}
HALVES = {0.0: np.repeat([1.0, 0.0], 4), 1.0: np.repeat([0.0, 1.0], 4)}
"""The items that merges solve by the value of all their dimensions: one half of the items each."""


def study_of(*units: float, violations: Sequence[float] = ()) -> Study:
    """A study of merges that have one value in all dimensions."""
    study = optuna.create_study(direction="maximize")
    for unit, broken in zip_longest(units, violations, fillvalue=0.0):
        point: dict[str, Any] = dict.fromkeys(SPACE, unit)
        constraints = {"bound": broken}
        study.add_trial(
            optuna.trial.create_trial(params=point, distributions=SPACE, value=0.5, constraints=constraints)
        )
    return study


def children(study: Study, lowest: float = 0.0) -> Array:
    """[12, layers]: what samplers of several seeds ask for next, nearly without a step of their own."""
    asked = []
    for seed in range(12):
        request = SamplerRequest(
            [Branch(SPACE, {}, {})],
            seed,
            len(study.trials),
            sigma=1e-9,
            item_scores=lambda trial: HALVES[trial.params["x[0]"]] + lowest,
        )
        sampler = make_sampler("niches", request)
        space = sampler.infer_relative_search_space(study, study.trials[0])
        point = sampler.sample_relative(study, study.trials[0], space)
        asked.append([point[name] for name in SPACE])
    return np.array(asked)


def test_those_that_solve_different_items_are_crossed_at_one_depth() -> None:
    """Four solve the one half and one the other: without attraction, mates would mostly be the same."""
    for child in children(study_of(0, 0, 0, 0, 1)):
        changes = np.flatnonzero(np.abs(np.diff(child)) > 1e-6)
        assert len(changes) <= 1
        assert 0 < child[0] < 1
        if len(changes):
            assert child[0] + child[-1] == pytest.approx(1)


def test_scores_below_0_count_from_the_lowest_one_of_their_item() -> None:
    study = study_of(0, 1, 0, 1)
    assert children(study, lowest=-5) == pytest.approx(children(study))


def test_what_violates_constraints_has_no_children() -> None:
    study = study_of(0, 0, 0, 0, 1, violations=(0, 0, 0, 0, 0.1))
    assert children(study) == pytest.approx(0, abs=1e-6)
    assert children(study_of(0, 0, 0, 1, violations=[0.1] * 4)).max() > 0.1


def test_random_points_come_before_there_is_a_population() -> None:
    sampler = make_sampler("niches", SamplerRequest([Branch(SPACE, {}, {})], 0))
    study = study_of(0, 1, 1)
    assert not sampler.sample_relative(study, study.trials[0], dict(SPACE))
