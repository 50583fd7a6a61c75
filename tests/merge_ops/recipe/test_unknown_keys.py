"""Recipe files with keys and parameters that mergekit ignores are merged, with warnings; other recipes are refused."""

from math import acos, sin
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import mergesearch
from mergesearch.errors import UserError, nearest
from mergesearch.merge_ops.engine.documents import merge_file
from mergesearch.merge_ops.engine.engine import merge
from mergesearch.merge_ops.engine.options import MergeOptions
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.parsing import dump_yaml

from ...tolerances import assert_close
from ..helpers import INPUTS, OPERATIONS, read, save

A, B = str(INPUTS / "base"), str(INPUTS / "ft1")


def breadcrumbs(**more: Any) -> dict[str, Any]:
    models = [{"model": B, "parameters": {"weight": 0.42, "density": 0.9, "gamma": 0.01}}]
    return {"base_model": A, "merge_method": "breadcrumbs_ties", "models": models, **more}


UNKNOWN: dict[str, tuple[dict[str, Any], str]] = {
    "parameter": (
        {"parameters": {"random_seed": 145}},
        "parameters: there is no parameter 'random_seed'; did you mean 'seed'?",
    ),
    "key": ({"random_seed": 145}, "unknown key 'random_seed'; valid: "),
    "key of a model": (
        {"models": [{"model": B, "weight": 1, "parameters": {"weight": 0.42}}]},
        "models[0]: unknown key 'weight'",
    ),
    "key of a tokenizer": ({"tokenizer": {"source": "base", "kind": "x"}}, "tokenizer: unknown key 'kind'"),
    "key of a token": (
        {"tokenizer": {"source": "base", "tokens": {"token3": {"from": "x"}}}},
        "tokenizer: tokens.token3: unknown key 'from'",
    ),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_a_file_with_it_is_merged_with_a_warning(kind: str, tmp_path: Path) -> None:
    more, warning = UNKNOWN[kind]
    file, said = tmp_path / "my.yml", list[str]()
    file.write_text(dump_yaml(breadcrumbs(**more)))
    merge_file(file, tmp_path / "out", MergeOptions(warn=said.append))
    assert any(line.startswith(f"{file}: {warning}") and line.endswith("as in mergekit") for line in said)
    with pytest.raises(UserError):
        Recipe.read(breadcrumbs(**more))


def test_the_result_is_that_without_the_key(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="random_seed"):
        mergesearch.merge(breadcrumbs(parameters={"random_seed": 145}), tmp_path / "with")
    mergesearch.merge(breadcrumbs(), tmp_path / "without")
    one, two = read(tmp_path / "with"), read(tmp_path / "without")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_slices_and_modules(tmp_path: Path) -> None:
    source = {"model": A, "layer_range": [0, 2], "layers": 3}
    recipe = {"merge_method": "passthrough", "slices": [{"sources": [source], "name": "x"}]}
    said: list[str] = []
    merge(Recipe.read(recipe, "my.yml", said.append), tmp_path / "out")
    assert [line.partition(";")[0] for line in said] == [
        "my.yml: slices[0]: unknown key 'name'",
        "my.yml: slices[0]: sources[0]: unknown key 'layers'",
    ]


def test_the_nearest_name_may_be_a_part() -> None:
    assert nearest("random_seed", ["rank_share", "seed", "weight"]) == "; did you mean 'seed'?"
    assert nearest("weigth", ["seed", "weight"]) == "; did you mean 'weight'?"


@pytest.mark.parametrize("t", [-0.5, 1.5, "1.5", "15e-1"])
def test_slerp_beyond_its_ends(t: Any, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    one, two = (torch.randn(4, 5, generator=generator) for _ in range(2))
    paths = [save(tmp_path / f"{i}.safetensors", {"w": tensor}) for i, tensor in enumerate((one, two))]
    recipe = {"merge_method": "slerp", "base_model": paths[0], "models": [{"model": paths[1]}], "parameters": {"t": t}}
    merge(Recipe.read(recipe), tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")["w"]
    expected = great_circle(one.double(), two.double(), float(t))
    assert_close(found.double(), expected, OPERATIONS, expected.abs().max().item(), torch.float32)


def great_circle(one: Tensor, two: Tensor, t: float) -> Tensor:
    omega = acos(float((one * two).sum() / one.norm() / two.norm()))
    return one * (sin((1 - t) * omega) / sin(omega)) + two * (sin(t * omega) / sin(omega))


@pytest.mark.parametrize(("text", "value"), [("true", True), ("False", False), ("yes", True), ("off", False)])
def test_switches_as_text(text: str, value: bool, tmp_path: Path) -> None:
    models = [{"model": model, "parameters": {"weight": "0.7"}} for model in (A, B)]
    for name, given in (("text", text), ("value", value)):
        recipe = {"merge_method": "linear", "models": models, "parameters": {"normalize": given}}
        merge(Recipe.read(recipe), tmp_path / name)
    one, two = read(tmp_path / "text"), read(tmp_path / "value")
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(("name", "said"), [("mlpp", ["filter 'mlpp': no tensor has this in its name"]), ("mlp", [])])
def test_a_filter_that_no_tensor_matches_is_told(name: str, said: list[str], tmp_path: Path) -> None:
    weight = [{"filter": name, "value": 0.5}, {"filter": "*", "value": 0.4}]
    models = [{"model": B, "parameters": {"weight": weight}}]
    recipe = Recipe.read({"base_model": A, "merge_method": "task_arithmetic", "models": models})
    told: list[str] = []
    merge(recipe, tmp_path / "out", options=MergeOptions(warn=told.append))
    assert told == said


def test_a_key_that_stands_twice_is_told(tmp_path: Path) -> None:
    text = dump_yaml(breadcrumbs()) + "merge_method: linear\n"
    (tmp_path / "x.yml").write_text(text)
    told: list[str] = []
    merge_file(tmp_path / "x.yml", tmp_path / "out", MergeOptions(warn=told.append))
    assert "found the key 'merge_method' again, as in line 2; the last one counts, as in mergekit" in told[0]
