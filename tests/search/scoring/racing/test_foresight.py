"""Foresight and draws: values foretold from some of the items, their variances, and how often races err."""

import numpy as np
import pytest

from mergesearch.search.scoring.racing.draws import Draws
from mergesearch.search.scoring.racing.foresight import Candidate, Foresight
from mergesearch.search.statistics import Array

from ....tolerances import close

ITEMS, REFERENCES = 240, 10
TASKS = np.arange(ITEMS) % 2
SHARES = np.stack([(task == TASKS) / (task == TASKS).sum() for task in (0, 1)])


def margins(rng: np.random.Generator, count: int) -> Array:
    """[count, items] of candidates that are made of the same three directions, and of a part of their own."""
    parts, ease = np.random.default_rng(5).normal(size=(3, ITEMS)), np.random.default_rng(6).normal(1, 2, ITEMS)
    return ease + rng.normal(0, 0.5, (count, 3)) @ parts + 0.2 * rng.normal(size=(count, ITEMS))


def read(found: Array) -> tuple[Array, Array]:
    """(metric, grades)."""
    return (found > 0).astype(float), 1 / (1 + np.exp(-found))


def made(seed: int) -> tuple[Foresight, Candidate]:
    metric, grades = read(margins(np.random.default_rng(seed), REFERENCES + 1))
    return Foresight(grades[:-1], metric[:-1], TASKS, SHARES), Candidate(metric[-1], grades[-1])


def test_what_tells_more_is_drawn_earlier() -> None:
    rates = np.array([1.0, 0.2, 3.0, 0.5, 1.5, 0.1])
    firsts = [Draws.of(rates, seed).order[0] for seed in range(4000)]
    found = np.bincount(firsts, minlength=len(rates)) / len(firsts)
    # Four deviations of 4,000 draws.
    assert found == pytest.approx(rates / rates.sum(), abs=0.03)


def test_with_all_items_seen_the_values_are_those_of_the_metric() -> None:
    foresight, candidate = made(0)
    *_, last = foresight.foretell(candidate, [np.arange(100), np.arange(100, ITEMS)])
    assert last.values == close(SHARES @ candidate.metric, ITEMS)
    assert last.covariance == close(np.zeros((2, 2)), ITEMS)


def test_unseen_items_are_not_read() -> None:
    foresight, candidate = made(1)
    seen = np.arange(60)
    blank = Candidate(
        np.where(np.arange(ITEMS) < 60, candidate.metric, 9.0), np.where(np.arange(ITEMS) < 60, candidate.grades, 9.0)
    )
    one, two = (next(foresight.foretell(each, [seen])) for each in (candidate, blank))
    assert one.values.tolist() == two.values.tolist()
    assert one.covariance.tolist() == two.covariance.tolist()


def test_errors_are_as_large_as_they_are_foretold_to_be() -> None:
    """And much smaller than those of the mean over the seen items."""
    errors, plain = [], []
    for seed in range(60):
        foresight, candidate = made(seed)
        seen = Draws.of(foresight.noise, seed).order[:50]
        found, truth = next(foresight.foretell(candidate, [seen])), SHARES @ candidate.metric
        errors.append((found.values - truth) / np.sqrt(np.diag(found.covariance)))
        uniform = np.random.default_rng(seed).permutation(ITEMS)[:50]
        means = np.array([candidate.metric[uniform[TASKS[uniform] == task]].mean() for task in (0, 1)])
        plain.append(np.sqrt(((means - truth) ** 2).mean() / ((found.values - truth) ** 2).mean()))
    assert 0.6 < np.std(errors) < 1.4
    assert abs(np.mean(errors)) < 0.35
    assert np.median(plain) > 1.5


def test_a_candidate_that_answers_otherwise_has_a_larger_variance() -> None:
    foresight, candidate = made(2)
    seen = np.random.default_rng(0).permutation(ITEMS)[:50]
    turned = np.random.default_rng(1).random(ITEMS) < 0.2
    odd = Candidate(*(np.where(turned, 1 - values, values) for values in (candidate.metric, candidate.grades)))
    usual, unusual = (next(foresight.foretell(each, [seen])) for each in (candidate, odd))
    assert (np.diag(unusual.covariance) > 2 * np.diag(usual.covariance)).all()


def test_references_whose_metric_and_grades_part_make_values_less_certain() -> None:
    """A candidate that is worse by grades may then be better by the metric."""
    foresight, candidate = made(3)
    apart = np.random.default_rng(0).normal(0, 0.1, (REFERENCES, 1))
    other = Foresight(foresight.grades, foresight.grades + apart, TASKS, SHARES)
    same = Foresight(foresight.grades, foresight.grades, TASKS, SHARES)
    seen = np.arange(50)
    certain, uncertain = (next(each.foretell(candidate, [seen])) for each in (same, other))
    added = np.diag(uncertain.covariance - certain.covariance)
    unseen = 1 - SHARES[:, :50].sum(1)
    assert added == close(unseen * apart.var(ddof=1), 1000)


def test_the_scale_of_errors_is_near_one_where_references_are_alike() -> None:
    foresight, _ = made(4)
    assert 0.7 < foresight.scale([np.arange(40), np.arange(40, 80)]) < 1.3
