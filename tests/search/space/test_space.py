"""Recipes with holes: what is asked, what it becomes, and what is refused."""

from typing import Any

import optuna
import pytest

from mergesearch.errors import UserError
from mergesearch.merge_ops.methods import find_method
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.space.paths import model_labels
from mergesearch.search.space.space import Space

from ...tolerances import close

LAYERS = 4


def recipe(weight: Any, method: Any = "ties", **parameters: Any) -> dict[str, Any]:
    return {
        "merge_method": method,
        "base_model": "a/base",
        "models": [
            {"model": "a/one", "parameters": {"weight": weight, **parameters}},
            {"model": "a/two", "parameters": {"weight": 1}},
        ],
    }


def space(weight: Any, method: Any = "ties", **parameters: Any) -> Space:
    return Space(recipe(weight, method, **parameters), LAYERS, "recipe")


def asked(space: Space, method: str) -> list[str]:
    return [dimension.name for dimension in space.dimensions_of(find_method(method))]


def filled(space: Space, values: dict[str, Any], method: str = "ties") -> Recipe:
    return space.fill(find_method(method), values)


def test_one_value() -> None:
    found = space({"search": [0.0, 1.5]})
    assert asked(found, "ties") == ["one.weight"]
    assert found.dimensions[0].distribution == optuna.distributions.FloatDistribution(0.0, 1.5)
    assert filled(found, {"one.weight": 0.25}).models[0].parameters == {"weight": 0.25}


def test_what_yaml_repeats_has_holes_of_its_own() -> None:
    weight = [{"filter": "mlp", "value": {"search": [0.0, 1.0]}}, {"value": 0.5}]
    data = recipe(weight)
    data["models"][1]["parameters"]["weight"] = weight
    merged = filled(Space(data, LAYERS, "recipe"), {"one.weight.mlp": 0.25, "two.weight.mlp": 0.75})
    assert [model.parameters["weight"][0]["value"] for model in merged.models] == [0.25, 0.75]


def test_curve_becomes_a_gradient() -> None:
    found = space({"search": [0, 1], "curve": 3})
    assert asked(found, "ties") == ["one.weight[0]", "one.weight[1]", "one.weight[2]"]
    merged = filled(found, {"one.weight[0]": 0.0, "one.weight[1]": 1.0, "one.weight[2]": 0.5})
    assert merged.models[0].parameters["weight"] == [0.0, 1.0, 0.5]
    names = [f"layers.{i}.w" for i in range(5)]
    resolved = [part.each["weight"][0] for part in merged.resolve(names)]
    assert resolved == close([0.0, 0.5, 1.0, 0.75, 0.5], 4)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [("each", [0.0, 0.1, 0.2, 0.3]), (2, [0.0, 0.0, 0.1, 0.1]), (3, [0.0, 0.1, 0.2, 0.2]), (1, [0.0] * 4)],
)
def test_layers(layers: Any, expected: list[float]) -> None:
    found = space({"search": [0, 1], "layers": layers})
    values = {dimension.name: index / 10 for index, dimension in enumerate(found.dimensions)}
    resolved = [
        part.each["weight"][0] for part in filled(found, values).resolve([f"layers.{i}.w" for i in range(LAYERS)])
    ]
    assert resolved == close(expected, 4)


def test_holes_in_filters() -> None:
    found = space([{"filter": "mlp", "value": {"search": [0.0, 1.0]}}, {"value": {"search": [0.0, 2.0], "curve": 2}}])
    assert asked(found, "ties") == ["one.weight.mlp", "one.weight.rest[0]", "one.weight.rest[1]"]
    merged = filled(found, {"one.weight.mlp": 0.5, "one.weight.rest[0]": 1.0, "one.weight.rest[1]": 2.0})
    assert merged.models[0].parameters["weight"] == [{"filter": "mlp", "value": 0.5}, {"value": [1.0, 2.0]}]


def test_equal_filters_are_told_apart() -> None:
    dimension = {"filter": "mlp", "value": {"search": [0.0, 1.0]}}
    assert asked(space([dimension, dimension, {"value": 1}]), "ties") == ["one.weight.mlp", "one.weight.mlp~2"]


def test_density_is_asked_only_of_methods_that_have_it() -> None:
    found = space({"search": [0.0, 1.0]}, {"search": ["task_arithmetic", "ties"]}, density={"search": [0.1, 1.0]})
    assert asked(found, "task_arithmetic") == ["one.weight"]
    assert asked(found, "ties") == ["one.weight", "one.density"]
    assert found.is_conditional
    merged = filled(found, {"one.weight": 0.5}, "task_arithmetic")
    assert "density" not in merged.models[0].parameters


def test_method_is_asked_first() -> None:
    found = space({"search": [0.0, 1.0]}, {"search": ["task_arithmetic", "ties"]}, density={"search": [0.1, 1.0]})
    trial = optuna.create_study().ask()
    merged = found.ask(trial)
    assert next(iter(trial.params)) == "merge_method"
    assert merged.merge_method == trial.params["merge_method"]


def test_choices() -> None:
    found = space({"search": [0.2, 0.4, 0.8]})
    assert found.dimensions[0].distribution == optuna.distributions.CategoricalDistribution((0.2, 0.4, 0.8))
    shared = Space({**recipe(1), "parameters": {"normalize": {"search": [True, False]}}}, LAYERS, "recipe")
    assert shared.dimensions[0].distribution == optuna.distributions.CategoricalDistribution((True, False))
    assert not shared.fill(find_method("ties"), {"normalize": False}).parameters["normalize"]


def test_start_is_the_usual_setting_within_the_ranges() -> None:
    found = space({"search": [0.5, 1.0], "curve": 2}, density={"search": [0.3, 1.0]})
    start = found.start(find_method("ties"), {"weight": 0.7, "density": 0.2})
    assert start == {"one.weight[0]": 0.7, "one.weight[1]": 0.7, "one.density": 0.3}


def test_models_of_one_name_keep_their_paths() -> None:
    assert model_labels(["x/a", "y/a", "x/b"]) == {"x/a": "x/a", "y/a": "y/a", "x/b": "b"}


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (
            {"search": [1.0, 0.0]},
            "models[0].parameters.weight.search: found [1.0, 0.0], expected the lower number first",
        ),
        ({"search": "automatic"}, "expected [low, high], a list of choices or auto"),
        ({"search": [0, 1], "curv": 3}, "unknown key 'curv'; did you mean 'curve'?"),
        ({"search": [0, 1], "curve": 1}, "weight.curve: found 1, expected a whole number from 2"),
        ({"search": [0, 1], "layers": 9}, "weight.layers: found 9, expected a whole number from 1 to 4"),
        ({"search": [0, 1], "layers": 2, "curve": 2}, "found both curve and layers"),
        ({"search": [0, "x"]}, "weight.search: 'x' is not a number"),
    ],
)
def test_bad_holes(weight: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        space(weight)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"merge_method": {"search": ["ties", "tis"]}},
            "recipe: merge_method: there is no method 'tis'; did you mean",
        ),
        ({"merge_method": 3}, "merge_method: found 3, expected a name or {search: [names]}"),
        ({"parameters": {"lamda": {"search": [0, 1]}}}, "no parameter 'lamda'; did you mean 'lambda'?"),
        ({"parameters": {"t": {"search": [0, 1]}}}, "parameters.t: ties has no parameter 't'"),
        ({"parameters": {"lambda": {"search": [0, 1]}}, "modell": []}, "unknown key 'modell'; did you mean 'models'?"),
        ({"base_model": None}, "base_model: is missing; ties needs it"),
    ],
)
def test_bad_recipes(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        Space({**recipe({"search": [0, 1]}), **changes}, LAYERS, "recipe")
    assert message in str(error.value)


def test_density_out_of_range() -> None:
    with pytest.raises(UserError, match=r"density\.search: 1\.5 is not between 0 and 1"):
        space(1, density={"search": [0.1, 1.5]})
