"""Which recipes a run scores first, and the greedy soup against the paper's algorithm."""

import itertools
import random
from collections.abc import Callable

import pytest

from mergesearch.search.candidates.baselines import Baselines


def names_in(baselines: Baselines, score: Callable[[list[str]], float]) -> dict[str, float]:
    """Scores all baselines, soups by their members."""
    scores: dict[str, float] = {}
    while (baseline := baselines.following(scores)) is not None:
        assert baseline.name not in scores
        scores[baseline.name] = score([entry.model for entry in baseline.recipe.models])
    return scores


def test_what_is_scored() -> None:
    found = names_in(Baselines(["m/one", "m/two"], "m/base", {}), lambda members: float(len(members)))
    assert list(found) == [
        "base",
        "one",
        "two",
        "uniform soup",
        "task_arithmetic",
        "ties",
        "dare_ties",
        "soup of one + two",
        "greedy soup",
    ]


def test_without_a_base_there_are_no_task_vectors() -> None:
    found = names_in(Baselines(["m/one", "m/two"], None, {}), lambda members: float(len(members)))
    assert list(found) == ["one", "two", "uniform soup", "soup of one + two", "greedy soup"]


def test_one_model() -> None:
    found = names_in(Baselines(["m/one"], "m/base", {}), lambda members: float(len(members)))
    assert list(found) == ["base", "one", "task_arithmetic", "ties", "dare_ties"]


def test_the_base_is_no_ingredient_even_where_it_is_listed() -> None:
    found = names_in(Baselines(["m/base", "m/one"], "m/base", {}), lambda members: float(len(members)))
    assert "greedy soup" not in found


def test_dtype_is_that_of_the_search() -> None:
    first = Baselines(["m/one"], None, {"dtype": "bfloat16"}).following({})
    assert first is not None
    assert first.recipe.dtype == "bfloat16"


def greedy(models: list[str], score: Callable[[list[str]], float]) -> list[str]:
    """Algorithm 1 of arXiv:2203.05482, with the strict comparison of the paper's code."""
    ranked = sorted(models, key=lambda model: score([model]), reverse=True)
    soup = [ranked[0]]
    for model in ranked[1:]:
        if score([*soup, model]) > score(soup):
            soup.append(model)
    return soup


@pytest.mark.parametrize("seed", range(8))
def test_greedy_soup_is_the_papers(seed: int) -> None:
    models = [f"m/{letter}" for letter in "abcde"]
    rng = random.Random(seed)
    subsets = itertools.chain.from_iterable(itertools.combinations(models, n) for n in range(1, 6))
    table = {frozenset(subset): rng.random() for subset in subsets}

    def score(members: list[str]) -> float:
        return table[frozenset(members)]

    baselines, scores = Baselines(models, None, {}), {}
    last = None
    while (baseline := baselines.following(scores)) is not None:
        scores[baseline.name] = score([entry.model for entry in baseline.recipe.models])
        last = baseline
    assert last is not None
    assert last.name == "greedy soup"
    assert {entry.model for entry in last.recipe.models} == set(greedy(models, score))


def test_a_soup_that_is_only_as_good_is_left() -> None:
    found = names_in(Baselines(["m/one", "m/two"], None, {}), lambda _: 0.5)
    baselines = Baselines(["m/one", "m/two"], None, {})
    del found["greedy soup"]
    last = baselines.following(found)
    assert last is not None
    assert [entry.model for entry in last.recipe.models] == ["m/one"]
