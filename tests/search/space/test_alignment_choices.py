"""Searches in which models may be aligned before the merge."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from mergesearch.errors import UserError
from mergesearch.merge_ops.alignment.models import symmetries
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.engine.documents import merge_file
from mergesearch.merge_ops.methods import find_method
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.candidates.plan import open_plan
from mergesearch.search.config import Config
from mergesearch.search.run import run
from mergesearch.search.space.space import Space
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_folder import RunFolder

Data = dict[str, Any]
WEIGHT = {"parameters": {"weight": {"search": [0.0, 1.0]}}}


def recipe(align: Any, **keys: Any) -> Data:
    models = [{"model": "m/one", **WEIGHT}, {"model": "m/two", "align": align, **WEIGHT}]
    return {"merge_method": "linear", "models": models, **keys}


def test_a_model_is_aligned_or_not() -> None:
    space = Space(recipe({"search": ["weights", "none"]}), 2, "recipe")
    assert space.dimensions[0].name == "two.align"
    method = find_method("linear")
    point = space.start(method, {})
    assert point["two.align"] == "weights"
    aligned, plain = (space.fill(method, {**point, "two.align": value}) for value in ("weights", "none"))
    assert aligned.references == ["m/one", "m/two aligned to m/one by weights"]
    assert plain.references == ["m/one", "m/two"]
    assert space.models == aligned.references
    assert yaml.safe_load(aligned.to_yaml())["models"][1]["align"] == {"by": "weights", "to": "m/one"}
    assert Recipe.read(yaml.safe_load(aligned.to_yaml())).references == aligned.references


def test_another_first_model_changes_nothing() -> None:
    """Every candidate is aligned to the same model, so that copies can be made before the search."""
    data: Data = {"merge_method": "add_difference", "base_model": "m/base", "order": {"search": "permutations"}}
    data["models"] = [{"model": "m/one"}, {"model": "m/two", "align": "weights"}]
    space = Space(data, 2, "recipe")
    method = find_method("add_difference")
    found = [space.fill(method, {**space.start(method, {}), "order": order}) for order in ("two > one", "one > two")]
    assert {reference for each in found for reference in each.references} == {
        "m/base",
        "m/one",
        "m/two aligned to m/base by weights",
    }


@pytest.mark.parametrize(
    ("align", "expected"),
    [
        ({"search": ["weights"]}, "models[1].align.search: found ['weights'], expected a list such as [weights, none]"),
        ({"search": ["weights", "heads"]}, "align.by"),
        ("heads", "models[1].align.by"),
    ],
)
def test_wrong_alignments(align: Any, expected: str) -> None:
    with pytest.raises(UserError) as error:
        Space(recipe(align, base_model="m/base"), 2, "recipe")
    assert expected in str(error.value)


def test_a_run_finds_that_a_permuted_model_has_to_be_aligned(config: Data, models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "two", tmp_path / "two")
    file = tmp_path / "two" / "model.safetensors"
    tensors, spec = load_file(file), symmetries(Checkpoint(str(models / "two")).config)
    turned = {name: order.roll(1, -1) for name, order in spec.identity().items()}
    save_file(spec.apply(turned, tensors), file, {"format": "pt"})
    entries = [
        {"model": str(models / "one"), **WEIGHT},
        {"model": str(tmp_path / "two"), "align": {"search": ["weights", "none"]}, **WEIGHT},
    ]
    data = config | {
        "recipe": {"merge_method": "linear", "models": entries},
        "search": {"trials": 14, "sampler": "random", "seed": 0},
    }
    run(open_plan(Config.model_validate(data), "config"), tmp_path / "runs")
    folder = tmp_path / "runs" / "small"
    trials = t.completed(RunFolder(folder).open_study(None))
    names = {t.label_of(trial) for trial in trials if t.kind_of(trial) == t.BASELINE}
    assert {"one", "two aligned"} <= names
    sampled = [yaml.safe_load(trial.user_attrs[t.RECIPE]) for trial in trials if t.kind_of(trial) == t.SAMPLED]
    assert {bool(each["models"][1].get("align")) for each in sampled} == {True, False}
    merge_file(folder / "recommended.yml", tmp_path / "again")
    merged, model = (Checkpoint(str(each)) for each in (tmp_path / "again", folder / "model"))
    assert merged.digest() == model.digest()
    assert torch.is_tensor(merged.tensor("lm_head.weight"))
