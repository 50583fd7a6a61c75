"""The points of the space at which baselines lie, by what they build."""

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from mergesearch.search.candidates.baselines import Baselines
from mergesearch.search.study import trials as t

from ..helpers import Data, course, go, killed, session_of, study_of

ONE_EACH = ("one", "two")


def recipe(models: Path, method: Any, weight: Any, **keys: Any) -> Data:
    """A space of both models with a hole for the weight of each."""
    entries = [{"model": str(models / name), "parameters": {"weight": weight}} for name in ONE_EACH]
    return {"merge_method": method, "base_model": str(models / "base"), "models": entries, **keys}


def points(config: Data, tmp_path: Path) -> dict[str, dict[str, Any] | None]:
    """The point of each baseline by name, and of a soup of one and two where they are given."""
    session = session_of(config, tmp_path)
    coordinates, baselines = session.loop._coordinates, session.plan.baselines
    assert isinstance(baselines, Baselines)
    return {each.name: coordinates.of(each.recipe) for each in baselines._standard()}


def test_every_average_is_a_point_of_task_arithmetic(config: Data, models: Path, tmp_path: Path) -> None:
    config["recipe"] = recipe(models, "task_arithmetic", {"search": [0.0, 1.5]})
    found = points(config, tmp_path)
    assert found["base"] == {"one.weight": 0.0, "two.weight": 0.0}
    assert found["one"] == {"one.weight": 1.0, "two.weight": 0.0}
    assert found["two"] == {"one.weight": 0.0, "two.weight": 1.0}
    assert found["uniform soup"] == {"one.weight": 0.5, "two.weight": 0.5}
    assert found["task_arithmetic"] == {"one.weight": 0.4, "two.weight": 0.4}
    assert found["ties"] is found["dare_ties"] is None


def test_only_exact_points_count(config: Data, models: Path, tmp_path: Path) -> None:
    config["recipe"] = recipe(models, "task_arithmetic", {"search": [0.1, 0.6]})
    found = points(config, tmp_path)
    assert {name for name, point in found.items() if point} == {"uniform soup", "task_arithmetic"}


def test_curves_filters_and_methods(config: Data, tmp_path: Path) -> None:
    found = points(config, tmp_path)
    names = ["one.weight[0]", "one.weight[1]", "one.weight[2]", "two.weight.mlp", "two.weight.rest"]
    weights = {name: [point[key] for key in names] for name, point in found.items() if point}
    assert weights["base"] == [0, 0, 0, 0, 0]
    assert weights["one"] == [1, 1, 1, 0, 0]
    assert weights["uniform soup"] == [0.5] * 5
    assert weights["task_arithmetic"] == [0.4] * 5
    assert {point["merge_method"] for name, point in found.items() if point and "ties" not in name} == {
        "task_arithmetic"
    }
    assert "ties" not in weights, "two has no density, which is 1 there"


def test_sparse_methods_at_their_own_settings(config: Data, models: Path, tmp_path: Path) -> None:
    config["recipe"] = recipe(models, "ties", {"search": [0.0, 1.5]}, parameters={"density": {"search": [0.1, 0.8]}})
    found = points(config, tmp_path)
    assert found["base"] is not None
    assert found["one"] is None, "TIES trims it"
    assert found["ties"] is None, "density is the recipe's own here, and the models' there"


def test_weights_that_sum_to_one(config: Data, models: Path, tmp_path: Path) -> None:
    config["recipe"] = recipe(models, "linear", {"search": "auto", "sums_to": 1})
    found = points(config, tmp_path)
    assert found["one"] == {"one.weight.share": 1.0}
    assert found["two"] == {"one.weight.share": 0.0}
    assert found["uniform soup"] == {"one.weight.share": 0.5}
    assert found["base"] is None


def test_models_that_may_be_left_out(config: Data, models: Path, tmp_path: Path) -> None:
    config["recipe"] = recipe(models, "task_arithmetic", {"search": [0.5, 1.0]})
    for entry in config["recipe"]["models"]:
        entry["include"] = {"search": [True, False]}
    found = points(config, tmp_path)
    assert found["one"] == {
        "one.include": True,
        "two.include": False,
        "one.weight": 1.0,
        "two.weight": pytest.approx(0.5),
    }
    assert found["base"] is None, "one model is always there"


def test_a_slerp_ends_at_its_models(config: Data, models: Path, tmp_path: Path) -> None:
    config["recipe"] = {
        "merge_method": "slerp",
        "base_model": str(models / "one"),
        "models": [{"model": str(models / "one")}, {"model": str(models / "two")}],
        "parameters": {"t": {"search": [0.0, 1.0]}},
    }
    found = points(config, tmp_path)
    assert (found["one"], found["two"]) == ({"t": 0.0}, {"t": 1.0})


def test_a_stack_of_layers_has_none(config: Data, models: Path, tmp_path: Path) -> None:
    config["recipe"] = {
        "merge_method": "passthrough",
        "base_model": str(models / "base"),
        "slices": {"search": {"models": [str(models / "one"), str(models / "two")], "length": [2, 3]}},
    }
    assert not any(points(config, tmp_path).values())


def test_a_run_gives_them_to_the_trials(config: Data, models: Path, tmp_path: Path) -> None:
    config["recipe"] = recipe(models, "task_arithmetic", {"search": [0.0, 1.5]})
    config["search"]["trials"] = 12
    go(config, tmp_path)
    study = study_of(tmp_path / "small")
    trials = {trial.user_attrs[t.NAME]: trial for trial in t.of_kind(study, t.BASELINE)}
    assert trials["uniform soup"].params == {"one.weight": 0.5, "two.weight": 0.5}
    assert "linear" in trials["uniform soup"].user_attrs[t.RECIPE], "the recipe stays the baseline's own"
    assert trials["ties"].params == {}
    sampled = [trial.params for trial in t.finished(study) if t.kind_of(trial) == t.SAMPLED]
    assert sampled
    assert all(point not in [trial.params for trial in trials.values()] for point in sampled)


@pytest.mark.parametrize("place", ["score", "tell"])
def test_a_killed_baseline_is_offered_again_as_itself(
    config: Data, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    config["recipe"] = recipe(models, "task_arithmetic", {"search": [0.0, 1.5]})
    config["search"]["trials"] = 11
    go(config, tmp_path / "whole")
    killed(monkeypatch, place, 4, config, tmp_path / "killed")
    go(config, tmp_path / "killed")
    assert course(tmp_path / "killed" / "small") == course(tmp_path / "whole" / "small")
    waiting = study_of(tmp_path / "killed" / "small").get_trials(states=(TrialState.WAITING,))
    assert not waiting


def test_cmaes_begins_at_the_best_of_them(config: Data, models: Path, tmp_path: Path) -> None:
    config["recipe"] = recipe(models, "task_arithmetic", {"search": [0.0, 1.5]})
    config["search"] = {"trials": 16, "seed": 0, "start": "none", "sampler": "cmaes", "sigma": 0.02}
    go(config, tmp_path)
    trials = t.finished(study_of(tmp_path / "small"))
    sampled = [trial for trial in trials if t.kind_of(trial) == t.SAMPLED]
    before = [trial for trial in trials[: sampled[0].number] if trial.params]
    best = t.best(before)
    assert sampled[0].user_attrs[t.SLOT]["begun"] == best.number
    assert all(abs(trial.params[name] - best.params[name]) < 0.15 for trial in sampled for name in best.params)
