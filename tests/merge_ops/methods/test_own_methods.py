"""Slices with their own methods, and methods from outside the package."""

from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch

from mergesearch.errors import UserError
from mergesearch.merge_ops.engine.engine import merge
from mergesearch.merge_ops.methods import METHODS, find_method
from mergesearch.merge_ops.recipe.recipe import Recipe

from ...tolerances import assert_close
from ..helpers import INPUTS, OPERATIONS, read, same_bytes

pytestmark = pytest.mark.usefixtures("trusted")
ONE, TWO = str(INPUTS / "L4-ft1"), str(INPUTS / "L4-ft2")
MINE = """
    from mergesearch.merge_ops.methods import Method, Parameter
    from mergesearch.merge_ops.kernels.plans import LinearCombination


    def decide(statistics, values):
        return LinearCombination(tuple(share * values.number("boost") for share in values.numbers("share")))


    METHOD = Method(
        name="mine",
        summary="A boosted sum.",
        paper="none",
        formula="boost Σ share · θ",
        base="input",
        parameters=(
            Parameter("share", "the model's part", per_model=True),
            Parameter("boost", "of everything", default=1.0),
        ),
        decide=decide,
    )
"""


def sources(start: int, end: int, **parameters: float) -> list[dict[str, Any]]:
    return [{"model": model, "layer_range": [start, end], "parameters": parameters} for model in (ONE, TWO)]


def built(recipe: dict[str, Any], out: Path) -> dict[str, torch.Tensor]:
    merge(Recipe.read(recipe), out)
    return read(out)


def sliced(method: str, *slices: dict[str, Any]) -> dict[str, Any]:
    return {"merge_method": method, "slices": list(slices)}


def test_slices_with_methods_of_their_own(tmp_path: Path) -> None:
    """Each layer equals that of a recipe with its method alone."""
    average = {"sources": sources(0, 2, weight=0.5)}
    spherical = {"sources": sources(2, 4), "merge_method": "slerp", "base_model": ONE, "parameters": {"t": 0.3}}
    mixed = built(sliced("linear", average, spherical), tmp_path / "mixed")
    linear = built(sliced("linear", {"sources": sources(0, 4, weight=0.5)}), tmp_path / "linear")
    slerp = built(sliced("slerp", {**spherical, "sources": sources(0, 4)}), tmp_path / "slerp")
    for name, value in mixed.items():
        upper = any(f".layers.{layer}." in name for layer in (2, 3)) or name.startswith(("model.norm", "lm_head"))
        assert same_bytes(value, (slerp if upper else linear)[name]), name


def test_a_slices_method_is_checked_like_any() -> None:
    unknown = sliced("linear", {"sources": sources(0, 4, weight=1.0), "merge_method": "slrp"})
    with pytest.raises(UserError, match=r"there is no method 'slrp'; did you mean 'slerp'"):
        Recipe.read(unknown)
    base = str(INPUTS / "base")
    too_many = sliced("linear", {"sources": sources(0, 4), "merge_method": "slerp", "base_model": base})
    with pytest.raises(UserError, match=r"slices\[0\]\.sources: found 2 beside base_model, slerp takes 1"):
        Recipe.read(too_many)


@pytest.fixture
def mine(tmp_path: Path) -> str:
    file = tmp_path / "my_methods.py"
    file.write_text(dedent(MINE))
    return f"{file}:METHOD"


def test_a_method_from_a_file(mine: str, tmp_path: Path) -> None:
    shares = [{"model": model, "parameters": {"share": share}} for model, share in ((ONE, 0.25), (TWO, 0.5))]
    recipe = Recipe.read({"merge_method": mine, "models": shares, "parameters": {"boost": 2.0}})
    again = Recipe.read(recipe.model_dump(exclude_defaults=True))
    merge(again, tmp_path / "out")
    found, one, two = read(tmp_path / "out"), read(Path(ONE)), read(Path(TWO))
    for name, value in found.items():
        assert_close(value, 0.5 * one[name] + two[name], OPERATIONS)


def test_its_parameters_are_known(mine: str) -> None:
    models = [{"model": ONE, "parameters": {"shre": 1.0}}]
    with pytest.raises(UserError, match=r"there is no parameter 'shre'; did you mean 'share'"):
        Recipe.read({"merge_method": mine, "models": models})


def test_what_is_no_method_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "none.py"
    file.write_text("METHOD = 3\n")
    with pytest.raises(UserError, match=r"is a int, expected a Method"):
        find_method(f"{file}:METHOD")
    with pytest.raises(UserError, match="did you mean 'ties'"):
        find_method("tise")
    assert all(find_method(name) == method for name, method in METHODS.items())
