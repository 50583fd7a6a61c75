"""mergekit's YAML: parsed, resolved for each tensor, written."""

from collections import Counter
from typing import Any

import pytest
import yaml

from mergesearch.merge_ops.methods import METHODS
from mergesearch.merge_ops.recipe.layout import ResultTensor, layer_of, relative_depths
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.merge_ops.recipe.resolution import Resolver, TensorRecipe
from mergesearch.parsing import dump_yaml

from ...tolerances import close

LAYERS = 5
NAMES = [
    "lm_head.weight",
    "model.embed_tokens.weight",
    *(f"model.layers.{i}.{part}.weight" for i in range(LAYERS) for part in ("mlp.up_proj", "self_attn.q_proj")),
    "model.norm.weight",
]


def recipe(text: str) -> Recipe:
    return Recipe.read(yaml.safe_load(text))


def linear(weight: Any, **more: Any) -> Recipe:
    """A recipe of two models. ``weight`` is the weight of the first."""
    return Recipe.read(
        {
            "merge_method": "linear",
            "models": [{"model": "a", "parameters": {"weight": weight}}, {"model": "b", "parameters": {"weight": 1}}],
            **more,
        }
    )


def weights(read: Recipe, names: list[str] = NAMES) -> dict[str, Any]:
    """The first model's weight for each tensor."""
    return {part.name: part.each["weight"][0] for part in read.resolve(names)}


def up(layer: int) -> str:
    return f"model.layers.{layer}.mlp.up_proj.weight"


def attention(layer: int) -> str:
    return f"model.layers.{layer}.self_attn.q_proj.weight"


# Forms of a setting


@pytest.mark.parametrize(("value", "read"), [(0.5, 0.5), (1, 1.0), ("1e-5", 1e-5), ("0.25", 0.25), (-2, -2.0)])
def test_a_number_holds_for_every_tensor(value: Any, read: float) -> None:
    assert set(weights(linear(value)).values()) == {read}


def test_yaml_reads_1e_5_as_text_and_it_is_a_number_all_the_same() -> None:
    assert yaml.safe_load("1e-5") == "1e-5"
    text = (
        "{merge_method: linear, models: [{model: a, parameters: {weight: 1e-5}}, {model: b}], parameters: {weight: 1}}"
    )
    assert weights(recipe(text))[up(0)] == 1e-5


@pytest.mark.parametrize(
    ("gradient", "over_layers"),
    [
        ([0, 1], [0, 0.25, 0.5, 0.75, 1]),
        ([0.0, 1.0, 0.5], [0, 0.5, 1, 0.75, 0.5]),
        ([3], [3, 3, 3, 3, 3]),
        ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4]),
        (["1e-2", 1], [0.01, 0.2575, 0.505, 0.7525, 1]),
    ],
    ids=str,
)
def test_a_list_of_numbers_runs_over_depth(gradient: list[Any], over_layers: list[float]) -> None:
    read = weights(linear(gradient))
    assert [read[up(i)] for i in range(LAYERS)] == close(over_layers, 4)
    assert [read[attention(i)] for i in range(LAYERS)] == close(over_layers, 4)
    for outside in ("lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"):
        assert read[outside] == float(gradient[0])


def test_switches_and_choices_step_instead_of_mixing() -> None:
    read = recipe(
        """
        {merge_method: dare_linear, base_model: o, models: [{model: a}],
         parameters: {weight: 1, normalize: [false, true], rescale: [none, l1, inverse], seed: [1, 3]}}
        """
    )
    parts = {part.name: part.shared for part in read.resolve(NAMES)}
    layers = [parts[up(i)] for i in range(LAYERS)]
    assert [part["normalize"] for part in layers] == [False, False, False, False, True]
    assert [part["seed"] for part in layers] == [1, 1, 1, 1, 3]
    assert [part["rescale"] for part in layers] == ["none", "none", "l1", "l1", "inverse"]


@pytest.mark.parametrize("value", [0.1, 0.3, 0.7])
def test_a_flat_gradient_is_the_number(value: float) -> None:
    assert set(weights(linear([value, value, value]), [f"h.{i}.w" for i in range(23)]).values()) == {value}


def test_the_first_filter_that_fits_wins() -> None:
    read = weights(
        linear(
            [
                {"filter": "self_attn", "value": [0, 1]},
                {"filter": "layers.2.", "value": 7},
                {"filter": "mlp", "value": 5},
                {"value": 9},
                {"filter": "norm", "value": 4},
            ]
        )
    )
    assert [read[attention(i)] for i in range(LAYERS)] == [0, 0.25, 0.5, 0.75, 1]
    assert [read[up(i)] for i in range(LAYERS)] == [5, 5, 7, 5, 5]
    assert read["model.norm.weight"] == 9


@pytest.mark.parametrize("everything", [{"filter": "*", "value": 2}, {"filter": None, "value": 2}, {"value": 2}])
def test_a_filter_may_take_everything(everything: dict[str, Any]) -> None:
    assert set(weights(linear(everything)).values()) == {2}
    assert set(weights(linear([everything])).values()) == {2}


def test_what_no_filter_takes_comes_from_the_recipe_then_from_the_default() -> None:
    own = [{"filter": "mlp", "value": 0.1}]
    read = linear(own, parameters={"weight": [{"filter": "self_attn", "value": 0.2}, {"value": 0.3}]})
    found = weights(read)
    assert (found[up(1)], found[attention(1)], found["model.norm.weight"]) == (0.1, 0.2, 0.3)
    ties = recipe(
        """
        {merge_method: ties, base_model: o, parameters: {weight: 1},
         models: [{model: a, parameters: {density: [{filter: mlp, value: 0.5}]}}, {model: b}]}
        """
    )
    parts = {part.name: part.each["density"] for part in ties.resolve(NAMES)}
    assert (parts[up(0)], parts[attention(0)]) == ((0.5, 1.0), (1.0, 1.0))


def test_defaults_are_the_methods() -> None:
    read = recipe("{merge_method: ties, base_model: o, models: [{model: a, parameters: {weight: 2}}]}")
    part = next(iter(read.resolve(NAMES)))
    assert part.shared == {p.name: p.default for p in METHODS["ties"].parameters if not p.per_model}
    assert part.each == {"weight": (2.0,), "density": (1.0,)}
    assert (part.base, part.models) == ("o", ("a",))


@pytest.mark.parametrize("value", [True, 1, 1.0])
def test_a_switch_may_be_a_number(value: Any) -> None:
    read = linear(1, parameters={"normalize": value})
    assert next(iter(read.resolve(NAMES))).shared["normalize"] is True


# Depth


def test_depth_is_0_in_the_first_layer_1_in_the_last_and_0_outside() -> None:
    depths = relative_depths(NAMES)
    assert [depths[up(i)] for i in range(LAYERS)] == [0, 0.25, 0.5, 0.75, 1]
    assert {depths[name] for name in NAMES if "layers" not in name} == {0}


def test_a_single_layer_is_the_last() -> None:
    assert relative_depths(["model.layers.0.w", "x"]) == {"model.layers.0.w": 1, "x": 0}


def test_each_stack_has_its_own_depth() -> None:
    names = [f"encoder.layers.{i}.w" for i in range(3)] + [f"decoder.layers.{i}.w" for i in range(5)]
    depths = relative_depths(names)
    assert [depths[f"encoder.layers.{i}.w"] for i in range(3)] == [0, 0.5, 1]
    assert [depths[f"decoder.layers.{i}.w"] for i in range(5)] == [0, 0.25, 0.5, 0.75, 1]


def test_the_first_number_of_a_name_is_the_layer() -> None:
    assert layer_of("model.layers.11.mlp.experts.3.w1.weight") == ("model.layers", 11)
    assert layer_of("h.0.w") == ("h", 0)
    assert layer_of("model.norm1.weight") is None
    assert layer_of("classifier.2") is None


# Inputs


def test_the_base_is_not_among_the_models_that_are_combined() -> None:
    read = recipe("{merge_method: slerp, base_model: a, models: [{model: a}, {model: b}], parameters: {t: 0.5}}")
    assert read.references == ["a", "b"]
    assert next(iter(read.resolve(NAMES))).models == ("b",)


def test_linear_takes_its_base_as_a_model_like_the_others() -> None:
    read = linear(1, base_model="b")
    assert read.references == ["b", "a"]
    first = next(iter(read.resolve(NAMES)))
    assert (first.base, first.models) == (None, ("a", "b"))


@pytest.mark.parametrize(
    ("dtypes", "target"),
    [({}, None), ({"dtype": "float32"}, "float32"), ({"dtype": "float32", "out_dtype": "bfloat16"}, "bfloat16")],
    ids=str,
)
def test_out_dtype_goes_before_dtype(dtypes: dict[str, str], target: str | None) -> None:
    assert linear(1, **dtypes).target_dtype == target


# Writing


FULL = """\
merge_method: ties
models:
- model: a
  parameters:
    weight: [0.0, 0.5, 1.0]
    density:
    - filter: mlp
      value: [0.1, 0.9]
    - value: 0.5
- model: org/b
  parameters:
    weight: 1e-5
base_model: ünïcode/base
parameters:
  normalize: true
  lambda:
    filter: self_attn
    value: 0.3
dtype: bfloat16
out_dtype: float16
"""


def test_what_is_written_is_read_back_equal() -> None:
    read = recipe(FULL)
    assert read.to_yaml() == FULL
    assert recipe(read.to_yaml()) == read
    next(iter(read.resolve(NAMES)))
    assert recipe(read.to_yaml()) == read


def test_defaults_are_not_written() -> None:
    assert set(yaml.safe_load(linear(1).to_yaml())) == {"merge_method", "models"}


def test_long_gradients_stay_readable_as_yaml() -> None:
    data = {"weight": [i / 7 for i in range(40)]}
    assert yaml.safe_load(dump_yaml(data)) == data


# Phenotype


def phenotype(**changes: Any) -> str:
    data: dict[str, Any] = yaml.safe_load(
        "{merge_method: task_arithmetic, base_model: o, models: [{model: a}, {model: b}], parameters: {weight: 0.5}}"
    )
    return Recipe.read({**data, **changes}).phenotype(NAMES)


SAME: dict[str, dict[str, Any]] = {
    "a list of one value": {"parameters": {"weight": [0.5]}},
    "a flat gradient": {"parameters": {"weight": [0.5, 0.5]}},
    "filters that come to the same": {"parameters": {"weight": [{"filter": "mlp", "value": 0.5}, {"value": "0.5"}]}},
    "each model's own": {"models": [{"model": m, "parameters": {"weight": 0.5}} for m in "ab"]},
    "a default written out": {"parameters": {"weight": 0.5, "lambda": 1, "normalize": 0}},
    "another method's parameter": {"parameters": {"weight": 0.5, "density": 0.1}},
    "the base among the models": {"models": [{"model": m} for m in "oab"]},
}
OTHER: dict[str, dict[str, Any]] = {
    "a number": {"parameters": {"weight": 0.50001}},
    "one layer": {"parameters": {"weight": [{"filter": "layers.3.", "value": 0.4}, {"value": 0.5}]}},
    "a shared number": {"parameters": {"weight": 0.5, "lambda": 0.9}},
    "the base": {"base_model": "p"},
    "a model": {"models": [{"model": "a"}, {"model": "c"}]},
    "the dtype": {"dtype": "bfloat16"},
    "the method": {"merge_method": "ties"},
}


@pytest.mark.parametrize("changes", SAME.values(), ids=SAME.keys())
def test_recipes_that_build_the_same_tensors_share_a_phenotype(changes: dict[str, Any]) -> None:
    assert phenotype(**changes) == phenotype()


@pytest.mark.parametrize("changes", OTHER.values(), ids=OTHER.keys())
def test_recipes_that_build_others_do_not(changes: dict[str, Any]) -> None:
    assert phenotype(**changes) != phenotype()


def test_dtype_and_out_dtype_are_one_phenotype() -> None:
    assert (
        phenotype(dtype="bfloat16")
        == phenotype(out_dtype="bfloat16")
        == phenotype(dtype="float32", out_dtype="bfloat16")
    )


def test_a_candidate_is_resolved_once_for_its_phenotype_and_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve, calls = Resolver.resolve, Counter[str]()

    def counted(self: Resolver, tensor: ResultTensor) -> TensorRecipe:
        calls[tensor.name] += 1
        return resolve(self, tensor)

    monkeypatch.setattr(Resolver, "resolve", counted)
    one = Recipe.read({"merge_method": "linear", "models": [{"model": "a", "parameters": {"weight": 1}}]})
    one.phenotype(NAMES)
    assert [tensor.name for tensor in one.resolve(list(NAMES))] == list(NAMES)
    assert set(calls.values()) == {1}
    assert [tensor.name for tensor in one.resolve(NAMES[:2])] == list(NAMES[:2]), "of other names it is another result"
