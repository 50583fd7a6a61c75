"""Searches over recipes of slices: methods and bases of their own, and layers that are searched for."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from mergesearch.errors import UserError
from mergesearch.merge_ops.methods import find_method
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.candidates.plan import open_plan
from mergesearch.search.config import Config
from mergesearch.search.space.space import Space
from mergesearch.search.study import trials as t

from ..helpers import Data, go, study_of

LAYERS = 5
HOLE = {"search": [0.0, 1.0]}


def sliced(*slices: Data, method: Any = "linear", **keys: Any) -> Data:
    return {"merge_method": method, "base_model": "a/base", "slices": list(slices), **keys}


def piece(*names: str, layers: Any = (0, LAYERS), **keys: Any) -> Data:
    """A slice of these models, with ``layers`` of each."""
    parameters = {"weight": 1.0} | keys.pop("of_each", {})
    sources = [{"model": f"a/{name}", "layer_range": list(layers), "parameters": parameters} for name in names]
    return {"sources": sources, **keys}


def middle(data: Data) -> Recipe:
    """The candidate to start from."""
    found = Space(data, LAYERS, "recipe")
    return found.fill(found.methods[0], found.start(found.methods[0], {}))


def test_a_slice_with_a_method_of_its_own_reads_its_parameters_by_that() -> None:
    own = piece("one", "two", merge_method="slerp", base_model="a/one", parameters={"t": 0.3})
    other = piece("one", of_each={"weight": HOLE})
    merged = middle(sliced(own, other))
    assert merged.slices[0].parameters == {"t": 0.3}
    assert [source.parameters for source in merged.slices[0].sources] == [{}, {}], "slerp has no weights"
    found = Space(sliced(own | {"parameters": {"t": HOLE}}, other), LAYERS, "recipe")
    assert [dimension.name for dimension in found.dimensions] == ["slice0.t", "slice1.one.weight"]
    tied = sliced(own | {"parameters": {"t": {"same_as": "slice1.one.weight"}}}, other)
    assert middle(tied).slices[0].parameters == {"t": 0.5}


def test_what_all_slices_share_is_asked_where_one_of_their_methods_reads_it() -> None:
    own = piece("one", "two", merge_method="slerp", base_model="a/one")
    data = sliced(own, piece("one"), method={"search": ["linear", "ties"]}, parameters={"t": HOLE, "density": HOLE})
    found = Space(data, LAYERS, "recipe")
    asked = {method.name: [dimension.name for dimension in found.dimensions_of(method)] for method in found.methods}
    assert asked == {"linear": ["t"], "ties": ["t", "density"]}
    assert middle(data).parameters == {"t": 0.5}


def test_ends_of_layer_ranges() -> None:
    first = piece("one", "two", layers=(0, {"same_as": "seam"}))
    first["sources"][0]["layer_range"] = [0, {"search": [2, 4], "name": "seam"}]
    found = Space(sliced(first, piece("one", layers=({"search": [0, 3], "step": 3}, LAYERS))), LAYERS, "recipe")
    second = "slices[1].sources[0].layer_range[0]"
    assert {dimension.name: dimension.ends for dimension in found.dimensions} == {"seam": [2, 4], second: [0, 3]}
    merged = found.fill(find_method("linear"), {"seam": 4, second: 3})
    assert [source.layer_range for entry in merged.slices for source in entry.sources] == [(0, 4), (0, 4), (3, 5)]
    corners = [(corner["seam"], corner[second]) for corner in found.corners(find_method("linear"))]
    assert {seam for seam, _ in corners} >= {2, 4}
    assert {begin for _, begin in corners} >= {0, 3}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            sliced(piece("one", layers=(0, {"search": "auto"}))),
            "layer_range[1].search: found 'auto', expected [lowest",
        ),
        (sliced(piece("one", layers=(0, {"search": [1, 2.5]}))), "expected whole numbers"),
        (sliced(piece("one", layers=(0, {"search": [1, 2], "log": True}))), "layer_range[1]: unknown key 'log'"),
        (sliced(piece("one", layers=(0, {"same_as": "seam"}))), "there is no hole 'seam' in a layer_range"),
        (
            sliced(
                piece("one", layers=(0, {"search": [1, 2], "name": "x"}), of_each={"weight": HOLE | {"name": "x"}}),
            ),
            "name: found 'x' in 2 holes, expected a unique name",
        ),
        (
            sliced(piece("one", merge_method={"search": ["linear", "ties"]})),
            "slices[0].merge_method: found a hole, expected a name",
        ),
        (
            sliced(piece("one", merge_method="ties"), piece("one"), parameters={"weight": {"search": "auto"}}),
            "weight.search: found auto, but linear, ties declare different ranges",
        ),
        (
            sliced(piece("one"), dtype={"search": ["float32", "bfloat16"]}),
            "found a hole where none is allowed; allowed in parameters",
        ),
    ],
)
def test_wrong_slices(data: Data, message: str) -> None:
    with pytest.raises(UserError) as error:
        Space(data, LAYERS, "recipe")
    assert message in str(error.value)


def config_of(config: Data, models: Path, end: Any = 1) -> Data:
    """Slices with a method of their own, and layers that are searched for; the models have two."""
    one, two = ({"model": str(models / name)} for name in ("one", "two"))
    dimension, seam = {"search": [0.0, 1.0]}, {"search": [1, 2], "name": "seam"}
    merged = [one | {"layer_range": [0, seam]}, two | {"layer_range": [0, {"same_as": "seam"}]}]
    slices = [
        {"merge_method": "slerp", "base_model": one["model"], "sources": merged, "parameters": {"t": dimension}},
        {"sources": [two | {"layer_range": [{"search": [0, end]}, 2], "parameters": {"weight": 1.0}}]},
    ]
    recipe = {"merge_method": "linear", "base_model": str(models / "base"), "slices": slices}
    return config | {"recipe": recipe, "search": {"trials": 18, "sampler": "random", "seed": 0}}


def test_a_run_over_layers_of_slices(config: Data, models: Path, tmp_path: Path) -> None:
    go(config_of(config, models), tmp_path)
    trials = t.finished(study_of(tmp_path / "small"))
    sampled = [trial for trial in trials if t.kind_of(trial) == t.SAMPLED]
    assert len(sampled) > 5
    assert all(trial.value is not None for trial in sampled)
    recipes = [Recipe.read(yaml.safe_load(trial.user_attrs[t.RECIPE])) for trial in sampled]
    ranges = {tuple(source.layer_range for entry in recipe.slices for source in entry.sources) for recipe in recipes}
    assert {one == two for one, two, _ in ranges} == {True}
    assert len(ranges) > 2
    assert len({recipe.slices[0].parameters["t"] for recipe in recipes}) == len(sampled)


def test_layers_that_are_not_there_are_refused_before_the_run(config: Data, models: Path) -> None:
    with pytest.raises(UserError, match=r"layer_range: found \[2, 2\].*; some values of the searched layer_range"):
        open_plan(Config.model_validate(config_of(config, models, end=2)), "config")
