"""Recipes that are not valid, and the message for each."""

from typing import Any

import pytest

from mergesearch.errors import UserError
from mergesearch.merge_ops.methods import METHODS
from mergesearch.merge_ops.recipe.recipe import Recipe

MODELS = [{"model": "a"}, {"model": "b"}]
TIES: dict[str, Any] = {
    "merge_method": "ties",
    "base_model": "o",
    "models": MODELS,
    "parameters": {"weight": 1},
}


def message(data: Any) -> str:
    with pytest.raises(UserError) as caught:
        list(Recipe.read(data, "my.yml").resolve(["model.layers.0.w"]))
    return str(caught.value)


def own(**parameters: Any) -> dict[str, Any]:
    """Models of which the second has these parameters."""
    return {"models": [{"model": "a"}, {"model": "b", "parameters": parameters}]}


def shared(**parameters: Any) -> dict[str, Any]:
    return {"parameters": {"weight": 1, **parameters}}


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"modelss": []}, "my.yml: unknown key 'modelss'; did you mean 'models'?"),
    "unknown key of a model": (
        {"models": [{"model": "a", "weight": 1}]},
        "my.yml: models[0]: unknown key 'weight'; valid: align, model, parameters",
    ),
    "models and slices": (
        {"slices": [{"sources": [{"model": "a", "layer_range": [0, 1]}]}]},
        "my.yml: models: found models and slices, expected one of models, slices, modules",
    ),
    "no layer_range": (
        {"models": [], "slices": [{"sources": [{"model": "a"}]}]},
        "my.yml: slices[0].sources[0].layer_range: is missing",
    ),
    "a layer too many": (
        {"models": [], "slices": [{"sources": [{"model": m, "layer_range": [0, 2]} for m in "ao"]}]},
        "slices[0].sources: layer_range: found [0, 2], a has the layers [0, 1]",
    ),
    "slices of other lengths": (
        {"models": [], "slices": [{"sources": [{"model": "a", "layer_range": [0, 1]}] * 2}]},
        "my.yml: slices[0].sources: a is listed 2 times, expected once",
    ),
    "parameter of a slice": (
        {"models": [], "slices": [{"sources": [{"model": "a", "layer_range": [0, 1]}], "parameters": {"densty": 1}}]},
        "my.yml: slices[0].parameters: there is no parameter 'densty'; did you mean 'density'?",
    ),
    "parameter of a source": (
        {"models": [], "slices": [{"sources": [{"model": "a", "layer_range": [0, 1], "parameters": {"density": 3}}]}]},
        "my.yml: slices[0].sources[0].parameters.density: 3 is not between 0 and 1",
    ),
    "base of other layers": (
        {
            "models": [],
            "slices": [{"sources": [{"model": "a", "layer_range": [0, 1]}, {"model": "b", "layer_range": [1, 2]}]}],
        },
        "my.yml: slices[0].sources: the base o is not listed, and the layers of the others differ",
    ),
    "module without models": (
        {"models": [], "modules": {"default": {}}},
        "my.yml: modules.default: expected either slices or models",
    ),
    "two tokenizers": (
        {"tokenizer_source": "base", "tokenizer": {"source": "union"}},
        "my.yml: tokenizer_source: found beside tokenizer, expected only one of them",
    ),
    "kind of a token's source": (
        {"tokenizer": {"tokens": {"x": {"source": {"kind": "one"}}}}},
        "my.yml: tokenizer.tokens.x.source",
    ),
    "on_mismatch": ({"on_mismatch": "skip"}, "my.yml: on_mismatch: found 'skip', expected: Input should be 'base' or"),
    "no model's name": ({"models": [{"parameters": {}}]}, "my.yml: models[0].model: is missing"),
    "no models": ({"models": []}, "my.yml: models: found []"),
    "models of the wrong type": ({"models": "a"}, "my.yml: models: found 'a'"),
    "dtype": ({"dtype": "float8"}, "my.yml: dtype: found 'float8', expected: Input should be 'float32', 'bfloat16'"),
    "near method": ({"merge_method": "tise"}, "my.yml: merge_method: there is no method 'tise'; did you mean 'ties'?"),
    "far method": ({"merge_method": "xyz"}, "there is no method 'xyz'; valid: add_difference, "),
    "parameter": (shared(wieght=1), "my.yml: parameters: there is no parameter 'wieght'; did you mean 'weight'?"),
    "parameter of a model": (
        own(densty=1),
        "my.yml: models[1].parameters: there is no parameter 'densty'; did you mean 'density'?",
    ),
    "not a number": (shared(density="much"), "my.yml: parameters.density: 'much' is not a number"),
    "a switch for a number": (shared(density=True), "my.yml: parameters.density: True is not a number"),
    "too large": (shared(density=1.5), "my.yml: parameters.density: 1.5 is not between 0 and 1"),
    "too small": (own(density=-0.1), "my.yml: models[1].parameters.density: -0.1 is not between 0 and 1"),
    "in a gradient": (shared(density=[0.5, 2]), "my.yml: parameters.density: 2 is not between 0 and 1"),
    "in a filter": (
        shared(density=[{"filter": "mlp", "value": [0, 3]}]),
        "my.yml: parameters.density: 3 is not between 0 and 1",
    ),
    "not finite": (shared(weight=float("inf")), "my.yml: parameters.weight: inf is not between -inf and inf"),
    "nan": (shared(weight=float("nan")), "my.yml: parameters.weight: nan is not between"),
    "text of nan": (shared(weight="nan"), "my.yml: parameters.weight: 'nan' is not between"),
    "not a switch": (shared(normalize="maybe"), "my.yml: parameters.normalize: 'maybe' is not true or false"),
    "not a choice": (shared(rescale="l2"), "my.yml: parameters.rescale: 'l2' is not one of 'inverse', 'l1', 'none'"),
    "null": (shared(density=None), "my.yml: parameters.density: found None, expected a value, a list of values"),
    "empty list": (shared(density=[]), "my.yml: parameters.density: found [], expected a value"),
    "nested list": (shared(density=[[1]]), "my.yml: parameters.density: found [[1]], expected a value"),
    "key of a filter": (
        shared(density=[{"fliter": "mlp", "value": 1}]),
        "my.yml: parameters.density: unknown key 'fliter'; did you mean 'filter'?",
    ),
    "filter without a value": (
        shared(density=[{"filter": "mlp"}]),
        "my.yml: parameters.density: found {'filter': 'mlp'}, expected {filter: text, value:",
    ),
    "number among filters": (
        shared(density=[{"value": 1}, 0.5]),
        "my.yml: parameters.density: found 0.5 among filters, expected {filter, value}",
    ),
    "base": ({"base_model": None}, "my.yml: base_model: is missing; ties needs it"),
    "only the base": ({"models": [{"model": "o"}]}, "my.yml: models: found 0 beside base_model, ties takes 1 or more"),
    "duplicate": ({"models": [*MODELS, {"model": "a"}]}, "my.yml: models: a is listed 2 times, expected once"),
    "three for slerp": (
        {"merge_method": "slerp", "models": [*MODELS, {"model": "c"}]},
        "my.yml: models: found 3 beside base_model, slerp takes 1",
    ),
    "one for add_difference": (
        {"merge_method": "add_difference", "models": [{"model": "a"}]},
        "my.yml: models: found 1 beside base_model, add_difference takes 2",
    ),
    "weight": ({"parameters": {}}, "parameters: 'weight' of a is missing for the tensor model.layers.0.w"),
    "weight of some tensors": (
        {"parameters": {"weight": [{"filter": "mlp", "value": 1}]}},
        "parameters: 'weight' of a is missing for the tensor model.layers.0.w",
    ),
    "t": ({"merge_method": "slerp", "models": [{"model": "a"}]}, "parameters: 't' is missing for the tensor"),
}


@pytest.mark.parametrize(("changes", "expected"), WRONG.values(), ids=WRONG.keys())
def test_message(changes: dict[str, Any], expected: str) -> None:
    assert expected in message({**TIES, **changes})


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_a_document_that_is_not_a_mapping(data: Any) -> None:
    found = "is empty" if data is None else f"found {data!r}"
    assert message(data).startswith(f"my.yml: {found}, expected keys: merge_method, models")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"base_model": "b", "gate_mode": "hidden", "experts": []}, "my.yml: is a config of mergekit-moe"),
        ({"base_model": "b", "experts": [{"source_model": "a"}]}, "my.yml: is a config of mergekit-moe"),
        ({"genome": {"models": ["a"]}, "tasks": []}, "my.yml: is a config of mergekit-evolve"),
    ],
)
def test_files_of_mergekits_other_tools(data: dict[str, Any], said: str) -> None:
    assert message(data).startswith(said)


def test_several_mistakes_are_told_at_once() -> None:
    text = message({**TIES, "dtype": "float8", "parameters": {"density": None}})
    assert "my.yml: dtype: " in text
    assert "my.yml: parameters.density: " in text


def test_a_seed_must_be_whole() -> None:
    text = message({**TIES, "merge_method": "dare_ties", **shared(seed=1.5)})
    assert "my.yml: parameters.seed: 1.5 is not a whole number" in text


def test_parameters_of_other_methods_are_ignored_whatever_their_value() -> None:
    read = Recipe.read({**TIES, **shared(t=99, alpha="anything", seed=-1)})
    assert set(next(iter(read.resolve(["w"]))).shared) == {
        p.name for p in METHODS["ties"].parameters if not p.per_model
    }
