"""Frozen tensors stay the base's for every method, in the live model and on disk."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mergesearch.errors import UserError
from mergesearch.merge_ops.engine.engine import Engine, merge
from mergesearch.merge_ops.methods import METHODS
from mergesearch.merge_ops.recipe.recipe import Recipe, layer_of

from ..helpers import INPUTS, WITHOUT_TEXT, read, recipe_data, same_bytes

BASE = str(INPUTS / "base")
TUNED = [str(INPUTS / name) for name in ("ft1", "ft2", "ft3")]
FROZEN: list[Any] = ["mlp", "embed", {"layers": [0, 1]}]


def is_frozen(name: str) -> bool:
    layer = layer_of(name)
    return "mlp" in name or "embed" in name or (layer is not None and layer[1] == 0)


def recipe(name: str, frozen: list[Any]) -> Recipe:
    return Recipe.read({**recipe_data(METHODS[name], BASE, TUNED, 3), "base_model": BASE, "frozen": frozen})


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine([BASE, *TUNED], BASE)


@pytest.mark.parametrize("name", WITHOUT_TEXT)
def test_frozen_tensors_are_the_bases_and_the_others_are_merged_as_ever(
    name: str, engine: Engine, tmp_path: Path
) -> None:
    base, views = read(Path(BASE)), engine.views
    engine.build(recipe(name, []))
    free = {tensor: view.clone() for tensor, view in views.items()}
    engine.build(recipe(name, FROZEN))
    assert sum(map(is_frozen, views)) > 0
    for tensor, view in views.items():
        assert same_bytes(view, base[tensor] if is_frozen(tensor) else free[tensor]), tensor
    merge(recipe(name, FROZEN), tmp_path / "out")
    written = read(tmp_path / "out")
    assert all(same_bytes(written[tensor], view) for tensor, view in views.items())


def test_frozen_tensors_take_the_results_dtype(tmp_path: Path) -> None:
    data = recipe("ties", FROZEN).model_dump(exclude_defaults=True) | {"dtype": "bfloat16"}
    merge(Recipe.read(data), tmp_path / "out")
    base, written = read(Path(BASE)), read(tmp_path / "out")
    assert all(same_bytes(value, base[name].to(torch.bfloat16)) for name, value in written.items() if is_frozen(name))


def test_frozen_parts_are_another_phenotype(engine: Engine) -> None:
    names = engine.names
    assert recipe("ties", FROZEN).phenotype(names) != recipe("ties", []).phenotype(names)
    assert recipe("ties", ["mlp"]).phenotype(names) != recipe("ties", ["up_proj", "down_proj"]).phenotype(names)


@pytest.mark.parametrize(
    ("frozen", "message"),
    [
        (["mpl"], "frozen: mpl is no part of the model"),
        ([""], "frozen: found an empty text"),
        ([{"layers": [7, 9]}], r"frozen: \(7, 9\) is no part"),
    ],
)
def test_what_is_not_there_cannot_be_frozen(frozen: list[Any], message: str, engine: Engine) -> None:
    with pytest.raises(UserError, match=message):
        engine.build(recipe("ties", frozen))


def test_frozen_needs_a_base() -> None:
    data = {"merge_method": "linear", "models": [{"model": "a", "parameters": {"weight": 1}}], "frozen": ["mlp"]}
    with pytest.raises(UserError, match="frozen: needs base_model"):
        Recipe.read(data)
