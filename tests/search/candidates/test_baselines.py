"""Which recipes a run scores first, and the greedy soup against the paper's algorithm."""

import itertools
import random
from collections.abc import Callable

import pytest

from mergesearch.search.candidates.baselines import Baseline, Baselines, usual_baselines
from mergesearch.search.space.space import Space


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
    assert list(found) == ["base", "one", "plain average", "task_arithmetic", "ties", "dare_ties"]
    average = Baselines(["m/one"], "m/base", {}).recipe_named("plain average")
    assert [(entry.model, entry.parameters) for entry in average.models] == [
        ("m/base", {"weight": 1.0}),
        ("m/one", {"weight": 1.0}),
    ]


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


SLERP = {"merge_method": "slerp", "base_model": "base", "parameters": {"t": {"search": [0.0, 1.0], "curve": 3}}}


def test_the_methods_of_the_space_at_their_usual_settings() -> None:
    space = Space({**SLERP, "models": [{"model": "one"}]}, 2, "recipe")
    (usual,) = usual_baselines(space)
    assert usual.name == "slerp (usual)"
    assert usual.recipe.merge_method == "slerp"
    assert usual.point == dict.fromkeys(("t[0]", "t[1]", "t[2]"), 0.5)


def test_usual_settings_come_last_or_while_a_soup_is_scored_elsewhere() -> None:
    usual = [Baseline("ties (usual)", Baselines(["m/one"], None, {}).recipe_named("m/one"))]
    baselines = Baselines(["m/one", "m/two"], None, {}, usual=usual)
    found = names_in(baselines, lambda members: float(len(members)))
    assert list(found)[-2:] == ["greedy soup", "ties (usual)"]
    assert len(baselines) == len(found)
    early = dict.fromkeys(["one", "two"], 0.0)
    assert baselines.following(early, {"uniform soup"}) == usual[0]
    assert baselines.following(early, {"uniform soup", "ties (usual)"}) is None
    assert baselines.recipe_named("ties (usual)") == usual[0].recipe
