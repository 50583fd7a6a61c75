"""Coarse to fine: the levels of each kind of space, the sweep, and runs that are killed."""

from pathlib import Path

import pytest

from mergesearch.parsing import read_yaml
from mergesearch.search.candidates.coarse_to_fine import BEST_SINGLE
from mergesearch.search.candidates.sweep import next_point
from mergesearch.search.space.levels import BY_MODEL, BY_PART, SINGLE, levels_of
from mergesearch.search.space.space import Space
from mergesearch.search.study import trials as t

from ..helpers import Data, course, go, killed, study_of

CONFIGS = Path(__file__).parents[3] / "configs"
EXPECTED = {
    "demo": {SINGLE: 1, BY_MODEL: 4, BY_PART: 20},
    "depth_upscaling": {},
    "frankenmerge": {},
    "order": {SINGLE: 1},
    "ranges_and_ties": {SINGLE: 1, BY_MODEL: 2, BY_PART: 4},
    "sum_to_one": {BY_MODEL: 1},
    "two_objectives": {SINGLE: 1, BY_MODEL: 2},
    "which_models": {SINGLE: 1},
}
"""The number of values of each level of each config's methods."""


@pytest.mark.parametrize("name", EXPECTED)
def test_levels_of_every_kind_of_space(name: str) -> None:
    space = Space(read_yaml(CONFIGS / f"{name}.yml")["recipe"], 4, "recipe")
    for method in space.methods:
        found = levels_of(space, method)
        assert {level.name: len(level.groups) for level in found} == EXPECTED[name]
        names = {dimension.name: dimension for dimension in space.dimensions_of(method)}
        for level in found:
            tied = [each for group in level.groups for each in group]
            assert len(set(tied)) == len(tied)
            assert set(tied) <= set(names)
            assert all(len({names[each].distribution for each in group}) == 1 for group in level.groups)


def test_slices_and_filters_are_parts() -> None:
    weight = {"search": [0.0, 1.0]}
    weights = [{"filter": "mlp", "value": weight | {"layers": "each"}}, {"value": weight | {"layers": "each"}}]
    entries = [{"model": name, "parameters": {"weight": weights}} for name in ("a/one", "a/two")]
    space = Space({"merge_method": "task_arithmetic", "base_model": "a/base", "models": entries}, 8, "recipe")
    *_, parts = levels_of(space, space.methods[0])
    assert (parts.name, len(parts.groups)) == (BY_PART, 8), "two models, two filters, two halves of the layers"
    assert parts.groups[0] == tuple(f"one.weight.mlp[{layer}]" for layer in range(4))


@pytest.mark.parametrize("peak", [0.0, 0.1, 0.33, 0.6, 0.95, 1.0, 1.5])
@pytest.mark.parametrize("known", [(), (0.0,), (0.0, 0.25, 0.67)])
def test_a_sweep_finds_the_top(peak: float, known: tuple[float, ...]) -> None:
    def value(unit: float) -> float:
        return -((unit - peak) ** 2) * (1 + unit)

    points = {unit: value(unit) for unit in known}
    while (unit := next_point(points)) is not None:
        assert unit not in points
        points[unit] = value(unit)
    assert len(points) - len(known) <= 7
    assert abs(max(points, key=lambda unit: points[unit]) - min(peak, 1.0)) < 0.06


def test_a_sweep_survives_equal_values() -> None:
    points = dict.fromkeys((0.0, 0.5, 1.0), 0.5)
    for _ in range(20):
        unit = next_point(points)
        if unit is None:
            return
        points[unit] = 0.5
    pytest.fail("it goes on")


@pytest.fixture
def leveled(config: Data, models: Path) -> Data:
    """A search with six weights, auto, and trials for every level."""
    weight = {"search": [0.0, 1.5], "curve": 3}
    entries = [{"model": str(models / name), "parameters": {"weight": weight}} for name in ("one", "two")]
    config["recipe"] = {"merge_method": "task_arithmetic", "base_model": str(models / "base"), "models": entries}
    config["search"] = {"trials": 30, "seed": 0, "start": "none"}
    return config


def test_levels_of_a_run(leveled: Data, tmp_path: Path) -> None:
    go(leveled, tmp_path)
    trials = t.finished(study_of(tmp_path / "small"))
    kinds = list(dict.fromkeys(map(t.kind_of, trials)))
    swept = [trial for trial in trials if t.kind_of(trial) == t.SWEEP]
    assert swept
    assert all(len(set(trial.params.values())) == 1 for trial in swept)
    best = next((trial for trial in trials if trial.user_attrs.get(t.NAME) == BEST_SINGLE), None)
    line = [trial for trial in trials if len(set(trial.params.values())) == 1]
    assert t.score_of(best or t.best(line)) == max(map(t.score_of, line))
    levels = [trial for trial in trials if t.kind_of(trial) == t.LEVEL]
    assert levels
    for trial in levels:
        assert len({trial.params[f"one.weight[{knot}]"] for knot in range(3)}) == 1
    assert kinds.index(t.SWEEP) < kinds.index(t.LEVEL) < kinds.index(t.SAMPLED)
    winner = t.best(t.contenders(study_of(tmp_path / "small")))
    assert t.kind_of(winner) != t.SWEEP


@pytest.mark.parametrize("place", ["suggest_float", "tell", "score"])
def test_a_killed_run_has_the_same_levels(
    leveled: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    leveled["search"]["trials"] = 26
    go(leveled, tmp_path / "whole")
    killed(monkeypatch, place, {"suggest_float": 90, "tell": 15, "score": 18}[place], leveled, tmp_path / "killed")
    go(leveled, tmp_path / "killed")
    assert course(tmp_path / "killed" / "small") == course(tmp_path / "whole" / "small")


@pytest.mark.parametrize("search", [{"sampler": "tpe"}, {"levels": "none"}])
def test_a_sampler_of_the_users_own_has_no_levels(leveled: Data, tmp_path: Path, search: Data) -> None:
    leveled["search"] |= search | {"trials": 12}
    go(leveled, tmp_path)
    assert not {t.SWEEP, t.LEVEL} & set(map(t.kind_of, t.finished(study_of(tmp_path / "small"))))


def sliced(models: Path) -> Data:
    """A space with a weight for every model and layer, as slices."""
    weight = {"weight": {"search": [0.0, 1.0]}}
    slices = [
        {
            "sources": [
                {"model": str(models / name), "layer_range": [layer, layer + 1], "parameters": weight}
                for name in ("one", "two")
            ]
        }
        for layer in range(2)
    ]
    return {"merge_method": "task_arithmetic", "base_model": str(models / "base"), "slices": slices}


def with_weights(models: Path, method: object, weight: Data, **entry: object) -> Data:
    entries = [{"model": str(models / name), "parameters": {"weight": weight}, **entry} for name in ("one", "two")]
    return {"merge_method": method, "base_model": str(models / "base"), "models": entries}


CURVE = {"search": [0.0, 1.5], "curve": 3}


@pytest.mark.parametrize("kind", ["slices", "sum", "choices", "methods", "sparse"])
def test_every_kind_of_space_is_searched_level_by_level(leveled: Data, models: Path, tmp_path: Path, kind: str) -> None:
    recipe, levels = {
        "slices": (sliced(models), {SINGLE, BY_MODEL}),
        "sum": (with_weights(models, "linear", {"search": "auto", "sums_to": 1, "curve": 3}), {BY_MODEL}),
        "choices": (with_weights(models, "linear", CURVE, include={"search": [True, False]}), {SINGLE, BY_MODEL}),
        "methods": (with_weights(models, {"search": ["ties", "task_arithmetic"]}, CURVE), {SINGLE, BY_MODEL}),
        "sparse": (
            with_weights(models, "dare_ties", CURVE) | {"parameters": {"density": {"search": [0.2, 0.8]}}},
            {SINGLE, BY_MODEL},
        ),
    }[kind]
    leveled["recipe"] = recipe
    leveled["search"]["trials"] = 30
    go(leveled, tmp_path)
    trials = t.finished(study_of(tmp_path / "small"))
    assert not [trial.user_attrs[t.REASON] for trial in trials if t.REASON in trial.user_attrs]
    found = {trial.user_attrs[t.NAME] for trial in trials if t.kind_of(trial) in (t.SWEEP, t.LEVEL)}
    assert found == levels
