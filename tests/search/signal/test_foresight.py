"""What is foretold of the items of a candidate that were not seen, and how far it errs."""

import numpy as np
import pytest

from mergesearch.search.signal.foresight import Foresight
from mergesearch.search.statistics import Array

ITEMS, REFERENCES, SEEN = 240, 10, 50
TASKS = np.arange(ITEMS) % 2
WEIGHTS = np.full(ITEMS, 1 / ITEMS)


def grades(seed: int) -> Array:
    """[references + 1, items] of candidates made of the same three directions, and of a part of their own."""
    rng = np.random.default_rng(seed)
    parts, ease = np.random.default_rng(5).normal(size=(3, ITEMS)), np.random.default_rng(6).normal(1, 2, ITEMS)
    margins = ease + rng.normal(0, 0.5, (REFERENCES + 1, 3)) @ parts + 0.2 * rng.normal(size=(REFERENCES + 1, ITEMS))
    return np.asarray(1 / (1 + np.exp(-margins)))


def partly(candidate: Array, seen: Array) -> Array:
    return np.where(np.isin(np.arange(ITEMS), seen), candidate, np.nan)


def test_errors_are_as_large_as_they_are_foretold_to_be() -> None:
    """And much smaller than those of the mean over the seen items."""
    errors, plain = [], []
    for seed in range(80):
        *references, candidate = grades(seed)
        seen = np.random.default_rng(seed).permutation(ITEMS)[:SEEN]
        found = Foresight(np.stack(references), TASKS).foretell(partly(candidate, seen))
        unseen = np.where(np.isin(np.arange(ITEMS), seen), 0.0, WEIGHTS)
        error = unseen @ (found.expected - candidate)
        errors.append(error / np.sqrt(found.variance(unseen)))
        plain.append(abs(candidate[seen].mean() - candidate.mean()) / abs(error))
    assert 0.6 < np.std(errors) < 1.4
    assert abs(np.mean(errors)) < 0.35
    assert np.median(plain) > 1.5


def test_seen_items_are_kept_and_others_are_near_what_they_are() -> None:
    *references, candidate = grades(1)
    seen = np.random.default_rng(0).permutation(ITEMS)[:SEEN]
    foresight = Foresight(np.stack(references), TASKS)
    found = foresight.filled(partly(candidate, seen))
    assert found[seen].tolist() == candidate[seen].tolist()
    assert np.abs(found - candidate).mean() < 0.5 * np.abs(foresight.mean - candidate).mean()


def test_a_candidate_that_answers_otherwise_is_foretold_less_surely() -> None:
    *references, candidate = grades(2)
    seen = np.random.default_rng(0).permutation(ITEMS)[:SEEN]
    odd = np.where(np.random.default_rng(1).random(ITEMS) < 0.2, 1 - candidate, candidate)
    foresight = Foresight(np.stack(references), TASKS)
    usual, unusual = (foresight.foretell(partly(each, seen)).variance(WEIGHTS) for each in (candidate, odd))
    assert unusual > 2 * usual


def test_what_the_references_disagree_on_is_less_sure() -> None:
    *references, _ = grades(3)
    references = np.stack(references)
    references[:, :10] += np.random.default_rng(0).normal(0, 1.0, (REFERENCES, 10))
    noise = Foresight(references, TASKS).noise
    assert noise[:10].mean() > 5 * noise[10:].mean()


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("seen", [[], [0], list(range(ITEMS))])
def test_few_references_and_few_items_do(count: int, seen: list[int]) -> None:
    *references, candidate = grades(4)
    foresight = Foresight(np.stack(references[:count]), TASKS)
    found = foresight.filled(partly(candidate, np.array(seen)))
    assert np.isfinite(found).all()
    assert np.abs(found).max() < 3
    assert (foresight.noise > 0).all()


def test_references_that_are_equal_foretell_what_they_are() -> None:
    same = np.ones((4, ITEMS))
    found = Foresight(same, TASKS).foretell(np.where(np.arange(ITEMS) < 20, 1.0, np.nan))
    assert found.expected == pytest.approx(np.ones(ITEMS))


def test_a_mixture_of_references_is_foretold() -> None:
    others = np.random.default_rng(0).random((6, 300))
    one = 0.6 * others[0] + 0.4 * others[1]
    foresight = Foresight(others, np.zeros(300, dtype=np.int64))
    found = foresight.filled(np.where(np.arange(300) < 100, one, np.nan))
    assert np.abs(found - one).mean() < 0.5 * np.abs(others.mean(0) - one).mean()
    assert np.array_equal(foresight.filled(one), one)
