"""Results of mergekit for the same YAML. The tolerances are in golden/README.md."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from mergesearch.merge_ops.engine.engine import merge
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.merge_ops.recipe.resolution import TensorRecipe

from ...tolerances import tolerance
from ..helpers import GOLDEN, OPERATIONS, apart, read, ulp
from ..references import REFERENCES, Case
from ..references.selection import undecided

CASES = sorted(folder.name for folder in (GOLDEN / "cases").iterdir())
ROUNDED_BY_MERGEKIT = ("linear-dtype-bf16", "task_arithmetic-bf16", "ties-bf16")
"""The cases that mergekit computes in bf16."""
EQUAL_MASSES = {"ties-bf16": 1}
"""The number of elements whose elected sign differs in float64, because the masses of both signs are equal."""

cases = pytest.mark.parametrize("name", CASES)


@pytest.fixture(autouse=True)
def _in_golden_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(GOLDEN)


def recipe_of(name: str) -> Recipe:
    return Recipe.read(yaml.safe_load((GOLDEN / "cases" / name / "config.yml").read_text()), name)


def merged(recipe: Recipe, out: Path) -> dict[str, Tensor]:
    merge(recipe, out)
    return read(out)


def expected(name: str) -> dict[str, Tensor]:
    return dict(load_file(GOLDEN / "cases" / name / "out.safetensors"))


def inputs(recipe: Recipe) -> dict[str, dict[str, Tensor]]:
    return {reference: load_file(Path(reference) / "model.safetensors") for reference in recipe.references}


def case_of(part: TensorRecipe, tensors: dict[str, dict[str, Tensor]]) -> Case:
    models = [tensors[reference][part.name] for reference in part.models]
    base = tensors[part.base][part.name] if part.base else models[0]
    each: dict[str, Any] = dict(part.each)
    return Case(base, models, dict(part.shared), each, based=part.base is not None)


def test_there_are_cases_for_each_dtype() -> None:
    assert len(CASES) >= 19
    assert set(ROUNDED_BY_MERGEKIT) < set(CASES)


@cases
def test_same_as_mergekit(name: str, tmp_path: Path) -> None:
    recipe = recipe_of(name)
    ours, theirs = merged(recipe, tmp_path / "out"), expected(name)
    if name == "model_stock-2":
        theirs |= _bases_of_obtuse_task_vectors(recipe)
    assert ours.keys() == theirs.keys()
    off = sum(_far(name, recipe, ours[key], theirs[key], key) for key in theirs)
    assert off <= _spared(name, theirs)


def _bases_of_obtuse_task_vectors(recipe: Recipe) -> dict[str, Tensor]:
    """The base's tensors where Model Stock's cosine is negative. mergekit extrapolates there."""
    base, *models = inputs(recipe).values()
    deltas = {name: [(model[name] - tensor).flatten() for model in models] for name, tensor in base.items()}
    obtuse = {name: base[name] for name, (one, two) in deltas.items() if torch.dot(one, two) < 0}
    assert 0 < len(obtuse) < len(base)
    return obtuse


def _spared(name: str, theirs: dict[str, Tensor]) -> float:
    """The number of elements of the model that may differ more."""
    total = sum(tensor.numel() for tensor in theirs.values())
    if name == "ties-bf16":
        # mergekit rounds the task vectors, so that other elements are at the threshold.
        return total * 0.005
    return 0 if theirs["model.norm.weight"].dtype == torch.float32 else total * 0.001


def _far(name: str, recipe: Recipe, ours: Tensor, theirs: Tensor, key: str) -> int:
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), key
    if ours.dtype == torch.float32:
        far = (ours - theirs).abs() > tolerance(OPERATIONS, torch.float32, float(theirs.abs().max()))
        return int((far & ~_undecided(recipe, key)).sum())
    if name in ROUNDED_BY_MERGEKIT:
        return int(((ours.double() - theirs.double()).abs() > _explained(recipe, ours, key)).sum())
    return int((apart(ours, theirs) > 1).sum())


def _undecided(recipe: Recipe, key: str) -> Tensor:
    """The elements that depend on the processor's rounding. Only one method compares sums."""
    if recipe.merge_method != "arcee_fusion":
        return torch.tensor(False)
    (part,) = (part for part in recipe.resolve(expected_names(recipe)) if part.name == key)
    return undecided(case_of(part, inputs(recipe)))


def _explained(recipe: Recipe, ours: Tensor, key: str) -> Tensor:
    """The largest error of rounding in bf16 at every step: half a unit of each number that mergekit rounds."""
    part = next(part for part in recipe.resolve([*expected_names(recipe)]) if part.name == key)
    loaded = inputs(recipe)
    models = [loaded[reference][key].double() for reference in part.models]
    base = loaded[part.base][key].double() if part.base else torch.zeros_like(models[0])
    largest = torch.stack([base, ours.double(), *models]).abs().amax(0)
    return ulp(largest, torch.bfloat16) * (1 + len(models)) / 2


def expected_names(recipe: Recipe) -> list[str]:
    return sorted(inputs(recipe)[recipe.references[0]])


@cases
def test_is_the_float64_merge_rounded_once(name: str, tmp_path: Path) -> None:
    """This test connects the float64 references of the other tests with mergekit's results."""
    recipe = recipe_of(name)
    ours, tensors = merged(recipe, tmp_path / "out"), inputs(recipe)
    off = 0
    for part in recipe.resolve(expected_names(recipe)):
        case = case_of(part, tensors)
        reference, result = REFERENCES[recipe.merge_method](case), ours[part.name]
        largest = torch.stack([case.base, *case.models]).abs().max().item()
        room = ulp(reference, result.dtype) / 2 + tolerance(OPERATIONS, torch.float32, largest)
        off += int((((result.double() - reference).abs() > room) & ~_undecided(recipe, part.name)).sum())
    assert off <= EQUAL_MASSES.get(name, 0)
