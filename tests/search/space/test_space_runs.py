"""Whole runs over spaces in which the models themselves are choices."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from mergesearch.errors import UserError
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.candidates.plan import open_plan
from mergesearch.search.config import Config
from mergesearch.search.run import run
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_folder import RunFolder

from ...tolerances import close

Data = dict[str, Any]


def chosen(config: Data, models: Path) -> Data:
    """The base is one of two, a model may be left out, and weights sum to one."""
    weight = {"search": "auto", "sums_to": 1}
    recipe = {
        "merge_method": {"search": ["linear", "task_arithmetic"]},
        "base_model": {"search": [str(models / "base"), str(models / "one")]},
        "frozen": ["embed_tokens"],
        "models": [
            {"model": str(models / "base"), "parameters": {"weight": weight}, "include": {"search": [True, False]}},
            {"model": str(models / "one"), "parameters": {"weight": weight}},
            {"model": str(models / "two"), "parameters": {"weight": weight}},
        ],
    }
    return config | {"recipe": recipe, "search": {"trials": 22, "sampler": "random", "seed": 0}}


def test_a_run_over_bases_models_and_sums(config: Data, models: Path, tmp_path: Path) -> None:
    data = chosen(config, models)
    plan = open_plan(Config.model_validate(data), "config")
    verdict = run(plan, tmp_path)
    folder = tmp_path / "small"
    trials = t.completed(RunFolder(folder).open_study(None))
    sampled = [trial for trial in trials if t.kind_of(trial) == t.SAMPLED]
    assert verdict.trials == len(trials) == 22
    recipes = [Recipe.read(yaml.safe_load(trial.user_attrs[t.RECIPE])) for trial in sampled]
    assert {Path(str(recipe.base_model)).name for recipe in recipes} == {"base", "one"}
    for recipe in recipes:
        listed = [entry.model for entry in recipe.models]
        assert (recipe.base_model in listed) <= (recipe.merge_method == "linear")
        assert sum(entry.parameters["weight"] for entry in recipe.models) == close(1.0, 32)
    assert (folder / "model" / "model.safetensors").exists()


def test_each_base_is_scored_as_it_is(config: Data, models: Path, tmp_path: Path) -> None:
    data = chosen(config, models)
    shutil.copytree(models / "base", tmp_path / "other")
    data["recipe"]["base_model"] = {"search": [str(models / "base"), str(tmp_path / "other")]}
    data["recipe"]["models"] = data["recipe"]["models"][1:]
    baselines, scores = open_plan(Config.model_validate(data), "config").baselines, dict[str, float]()
    while (baseline := baselines.following(scores)) and len(scores) < 5:
        scores[baseline.name] = 0.0
    assert list(scores) == ["base", "one", "two", "other", "uniform soup"]


def test_bases_that_compute_differently_are_refused(config: Data, models: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(models / "base", other)
    changed = json.loads((other / "config.json").read_text()) | {"rms_norm_eps": 1e-3, "transformers_version": "0"}
    (other / "config.json").write_text(json.dumps(changed))
    data = chosen(config, models)
    data["recipe"]["base_model"] = {"search": [str(models / "base"), str(other)]}
    with pytest.raises(UserError, match=r"base_model: .* differ in config\.json: rms_norm_eps; the base "):
        open_plan(Config.model_validate(data), "config")
