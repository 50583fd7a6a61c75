"""Every kind of hole: what it asks, what recipe it makes, and that it survives a study with any sampler."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from scipy import stats
from scipy.interpolate import PchipInterpolator

from mergesearch.errors import UserError
from mergesearch.merge_ops.methods import METHODS, find_method
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.config import Config
from mergesearch.search.samplers import SAMPLERS, SamplerRequest, branches_of, make_sampler
from mergesearch.search.space.dimension import round_to_step
from mergesearch.search.space.parameters import monotone
from mergesearch.search.space.simplex import shares_of, weights_of
from mergesearch.search.space.space import Space

from ...tolerances import close, tolerance

optuna.logging.set_verbosity(optuna.logging.WARNING)
LAYERS = 5
NAMES = ["model.embed_tokens.weight"] + [
    f"model.layers.{i}.{part}.weight" for i in range(LAYERS) for part in ("mlp.up_proj", "self_attn.q_proj")
]
Data = dict[str, Any]


def model(name: str, *, weight: Any = 1.0, **entry: Any) -> Data:
    parameters = {} if weight is None else {"weight": weight}
    return {"model": f"a/{name}", "parameters": parameters | entry.pop("parameters", {}), **entry}


def recipe(*models: Data, method: Any = "ties", **keys: Any) -> Data:
    return {"merge_method": method, "base_model": "a/base", "models": list(models), **keys}


def space(*models: Data, **keys: Any) -> Space:
    return Space(recipe(*models, **keys), LAYERS, "recipe")


def made(found: Space, method: str = "ties", **values: Any) -> Recipe:
    """The recipe of the starting point with these values put in."""
    chosen = find_method(method)
    names = {name.replace("__", "."): value for name, value in values.items()}
    point = found.start(chosen, {})
    assert names.keys() <= {dimension.name for dimension in found.dimensions_of(chosen)}
    return found.fill(chosen, {**point, **names})


def weights(merged: Recipe, model: int = 0, where: str = "up_proj") -> list[float]:
    """The model's weight in every layer."""
    return [float(part.each["weight"][model]) for part in merged.resolve(NAMES) if where in part.name]


HOLE = {"search": [0.0, 1.0]}
EVERY_KIND: dict[str, Data] = {
    "number": recipe(model("one", weight=HOLE), model("two")),
    "log": recipe(model("one", weight={"search": [0.01, 1.0], "log": True}), model("two")),
    "step": recipe(model("one", weight={"search": [0.0, 1.0], "step": 0.25}), model("two")),
    "int": recipe(model("one", weight={"search": [1, 4], "int": True}), model("two")),
    "whole parameter": recipe(model("one"), method="dare_ties", parameters={"seed": {"search": [0, 9]}}),
    "choices": recipe(model("one", weight={"search": [0.2, 0.4, 0.8]}), model("two")),
    "auto": recipe(model("one", weight={"search": "auto"}), parameters={"normalize": {"search": "auto"}}),
    "auto by method": recipe(model("one", weight={"search": "auto"}), method={"search": ["linear", "ties"]}),
    "linear curve": recipe(model("one", weight=HOLE | {"curve": 3}), model("two")),
    "monotone curve": recipe(model("one", weight=HOLE | {"curve": 3, "interpolation": "monotone"}), model("two")),
    "layers": recipe(model("one", weight=HOLE | {"layers": "each"}), model("two", weight=HOLE | {"layers": 2})),
    "filters": recipe(model("one", weight=[{"filter": "mlp", "value": HOLE}, {"value": HOLE | {"curve": 2}}])),
    "inside a gradient": recipe(model("one", weight=[0.0, HOLE, 1.0])),
    "tie": recipe(model("one", weight=HOLE), model("two", weight={"same_as": "one.weight"})),
    "simplex": recipe(*(model(name, weight={"search": "auto", "sums_to": 1}) for name in ("one", "two", "three"))),
    "include": recipe(*(model(name, weight=HOLE, include={"search": [True, False]}) for name in ("one", "two"))),
    "base": recipe(model("one"), model("two"), model("three"), base_model={"search": ["a/one", "a/two"]}),
    "model": recipe(model("one") | {"model": {"search": ["a/one", "a/two"]}}),
    "order": recipe(
        model("one", weight=None), model("two", weight=None), method="add_difference", order={"search": "permutations"}
    ),
    "method": recipe(
        model("one", weight=HOLE, parameters={"density": HOLE}), method={"search": ["ties", "task_arithmetic"]}
    ),
    "slices": {
        "merge_method": "linear",
        "slices": [
            {"sources": [{"model": f"a/{name}", "layer_range": [0, LAYERS], "parameters": {"weight": HOLE}}
                         for name in ("one", "two")]}
        ],
    },
}  # fmt: skip


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "stack"])
@pytest.mark.parametrize("kind", EVERY_KIND)
def test_round_trip(kind: str, sampler: str) -> None:
    """What a sampler proposes fills a recipe, and the stored parameters fill the same recipe again."""
    found, study = Space(EVERY_KIND[kind], LAYERS, "recipe"), optuna.create_study(direction="maximize")
    for number in range(5 if sampler == "gp" else 7):
        study.sampler = make_sampler(sampler, SamplerRequest(branches_of(found), 0, number))
        trial = study.ask()
        merged = found.ask(trial)
        stored = study.trials[number].params
        method = find_method(stored.get("merge_method", found.methods[0].name))
        assert set(stored) - {"merge_method"} == {dimension.name for dimension in found.dimensions_of(method)}
        assert found.fill(method, stored) == merged
        assert Recipe.read(merged.model_dump(exclude_defaults=True)) == merged
        assert list(merged.resolve(NAMES))
        study.tell(trial, float(number % 3))


def distribution(weight: Data, **keys: Any) -> Any:
    return space(model("one", weight=weight), **keys).dimensions[0].distribution


@pytest.mark.parametrize(
    ("hole", "expected"),
    [
        ({"search": [0.0, 1.0]}, FloatDistribution(0.0, 1.0)),
        ({"search": [0.01, 1.0], "log": True}, FloatDistribution(0.01, 1.0, log=True)),
        ({"search": ["1e-3", 1], "log": True}, FloatDistribution(0.001, 1.0, log=True)),
        ({"search": [0.0, 1.5], "step": 0.3}, FloatDistribution(0.0, 1.5, step=0.3)),
        ({"search": [1, 8], "int": True}, IntDistribution(1, 8)),
        ({"search": [2, 8], "int": True, "step": 2}, IntDistribution(2, 8, step=2)),
        ({"search": [1, 64], "int": True, "log": True}, IntDistribution(1, 64, log=True)),
        ({"search": [0.2, 0.4, 0.8]}, CategoricalDistribution((0.2, 0.4, 0.8))),
        ({"search": "auto"}, FloatDistribution(0.0, 1.5)),
    ],
)
def test_ranges(hole: Data, expected: Any) -> None:
    assert distribution(hole) == expected


@pytest.mark.parametrize("name", METHODS)
def test_auto_is_what_the_method_says(name: str) -> None:
    """Every range that a method names can be searched, and its ends are values of the parameter."""
    method = METHODS[name]
    for parameter in (parameter for parameter in method.parameters if parameter.search):
        models = [model(f"m{i}", weight=None) for i in range(method.min_models)]
        needed = [p for p in method.parameters if p.default is None]
        required = {p.name: "text.txt" if p.kind in ("text", "file") else 0.5 for p in needed}
        dimensions = {**required, parameter.name: {"search": "auto"}}
        found = Space(recipe(*models, method=name, parameters=dimensions), LAYERS, "recipe").dimensions
        assert [dimension.name for dimension in found] == [parameter.name]
        assert [parameter.read(end) for end in found[0].ends] == [
            parameter.read(value) for value in (parameter.search[0], parameter.search[-1])
        ]


def test_auto_asks_each_method_its_own_range() -> None:
    found = Space(EVERY_KIND["auto by method"], LAYERS, "recipe")
    ranges = {dimension.name: dimension.described for dimension in found.dimensions}
    assert ranges == {
        "merge_method": "linear, ties", "one.weight@linear": "0 to 1", "one.weight@ties": "0 to 1.5"
    }  # fmt: skip
    assert found.is_conditional
    assert weights(made(found, "linear", **{"one.weight@linear": 0.25})) == [0.25] * LAYERS


def test_wide_ranges_of_methods_are_logarithmic() -> None:
    entries = [model("one", weight=None), model("two", weight=None)]
    found = space(*entries, method="fisher", parameters={"floor": {"search": "auto"}, "calibration": "text.txt"})
    assert found.dimensions[0].distribution == FloatDistribution(1e-12, 1e-8, log=True)
    assert found.start(find_method("fisher"), {})["floor"] == close(1e-10, 64)


def test_start_lies_on_the_steps() -> None:
    found = space(model("one", weight={"search": [0.0, 1.0], "step": 0.25}))
    assert found.start(find_method("ties"), {"weight": 0.4})["one.weight"] == 0.5


@pytest.mark.parametrize(
    "distribution",
    [
        FloatDistribution(0.0, 0.7, step=0.1),
        FloatDistribution(0.1, 0.8, step=0.1),
        FloatDistribution(-1.5, 1.5, step=0.3),
        IntDistribution(2, 20, step=3),
        IntDistribution(1, 64, log=True),
    ],
)
def test_values_are_rounded_to_the_nearest_step(distribution: FloatDistribution | IntDistribution) -> None:
    """Against all values of the range; Optuna takes what comes out."""
    step = distribution.step or 1
    values = [
        distribution.low + step * i for i in range(1000) if distribution.low + step * i < distribution.high + 0.01
    ]
    for value in np.linspace(distribution.low - 1, distribution.high + 1, 217):
        rounded = round_to_step(distribution, float(value))
        assert abs(rounded - value) <= min(abs(each - value) for each in values) + 1e-9
        assert min(abs(each - rounded) for each in values) < 1e-9
        assert distribution._contains(rounded)
        assert isinstance(rounded, int if isinstance(distribution, IntDistribution) else float)


def test_values_of_ranges_without_steps_stay_as_they_are() -> None:
    values = [round_to_step(FloatDistribution(0.25, 1.0), value) for value in (0.0, 0.3, 2.0)]
    assert values == [0.25, 0.3, 1.0]


@pytest.mark.parametrize("knots", [[0.0, 1.0], [0.0, 1.0, 0.2], [0.3, 0.3, 1.0, 0.0], [1.0, 0.5, 0.4, 0.3, 0.0]])
@pytest.mark.parametrize("layers", [2, 5, 32])
def test_monotone_is_scipys_pchip_within_its_knots(knots: Sequence[float], layers: int) -> None:
    found = monotone(knots, layers)
    expected = PchipInterpolator(np.linspace(0, 1, len(knots)), knots)(np.linspace(0, 1, layers))
    assert found == close(expected, 32, magnitude=1.0)
    assert min(knots) <= min(found)
    assert max(found) <= max(knots)


def test_monotone_curve_is_written_layer_by_layer() -> None:
    found = space(model("one", weight=HOLE | {"curve": 3, "interpolation": "monotone"}), model("two"))
    knots = [0.0, 1.0, 0.2]
    merged = made(found, **{f"one.weight[{i}]": value for i, value in enumerate(knots)})
    expected = PchipInterpolator([0, 0.5, 1], knots)(np.linspace(0, 1, LAYERS))
    assert weights(merged) == close(expected, 32, magnitude=1.0)


@pytest.mark.parametrize("layers", [3, 50, 64])
def test_choices_layer_by_layer_are_met_exactly(layers: int) -> None:
    names = [f"model.layers.{i}.w" for i in range(layers)]
    data = recipe(model("one"), model("two"), parameters={"normalize": {"search": [True, False], "layers": "each"}})
    found = Space(data, layers, "recipe")
    switches = [i % 3 == 1 for i in range(layers)]
    merged = found.fill(find_method("ties"), {f"normalize[{i}]": value for i, value in enumerate(switches)})
    assert [part.shared["normalize"] for part in merged.resolve(names)] == switches


def test_a_tie_to_a_share_of_a_sum() -> None:
    data = recipe(*three(), model("four", weight=0.4))
    data["models"][3]["parameters"]["density"] = {"same_as": "two.weight"}
    found = Space(data, LAYERS, "recipe")
    assert made(found).models[3].parameters["density"] == close(0.2, 16)


def test_ties_take_over_values_and_curves() -> None:
    curve = HOLE | {"curve": 2, "name": "shared"}
    found = space(
        model("one", weight=curve),
        model("two", weight={"same_as": "shared"}),
        model("three", weight=[{"filter": "mlp", "value": {"same_as": "two.weight"}}, {"value": 0.5}]),
    )
    assert [dimension.name for dimension in found.dimensions] == ["shared[0]", "shared[1]"]
    merged = made(found, **{"shared[0]": 0.0, "shared[1]": 1.0})
    assert [entry.parameters["weight"] for entry in merged.models] == [
        [0.0, 1.0],
        [0.0, 1.0],
        [{"filter": "mlp", "value": [0.0, 1.0]}, {"value": 0.5}],
    ]


def test_a_hole_is_asked_where_only_what_is_tied_to_it_needs_it() -> None:
    entry = model("one", weight={"same_as": "one.density"}, parameters={"density": {"search": [0.1, 1.0]}})
    found = space(entry, method={"search": ["ties", "task_arithmetic"]})
    assert [dimension.name for dimension in found.dimensions_of(find_method("task_arithmetic"))] == ["one.density"]
    assert made(found, "task_arithmetic", one__density=0.3).models[0].parameters == {"weight": 0.3}
    assert made(found, "ties", one__density=0.3).models[0].parameters == {"weight": 0.3, "density": 0.3}


def three(total: float = 1, **spec: Any) -> list[Data]:
    return [model(name, weight={"search": "auto", "sums_to": total, **spec}) for name in ("one", "two", "three")]


def drawn(found: Space, rng: random.Random) -> Recipe:
    """A candidate whose every number is uniform in its range."""
    values = {
        dimension.name: rng.choice(dimension.ends)
        if isinstance(dimension.distribution, CategoricalDistribution)
        else rng.uniform(*(float(end) for end in dimension.ends))
        for dimension in found.dimensions
    }
    return found.fill(found.methods[0], values)


def test_simplex_has_a_dimension_less_and_starts_even() -> None:
    found = space(*three())
    assert [dimension.name for dimension in found.dimensions] == ["one.weight.share", "two.weight.share"]
    assert [weights(made(found), i)[0] for i in range(3)] == close([1 / 3] * 3, 16)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_simplex_is_uniform(count: int) -> None:
    """Each weight of a uniform point of the simplex is Beta(1, K − 1), and so is any sum of two less its own."""
    rng = np.random.default_rng(0)
    points = np.array([weights_of(list(rng.random(count - 1))) for _ in range(4000)])
    assert np.abs(points.sum(axis=1) - 1).max() <= tolerance(8 * count)
    assert points.min() >= -tolerance(8 * count)
    for index in range(count):
        assert stats.kstest(points[:, index], stats.beta(1, count - 1).cdf).pvalue > 1e-3
    if count > 2:
        assert stats.kstest(points[:, 0] + points[:, -1], stats.beta(2, count - 2).cdf).pvalue > 1e-3


@pytest.mark.parametrize("point", [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.2, 0.5, 0.3], [0.0, 0.5, 0.5]])
def test_simplex_reaches_every_point(point: list[float]) -> None:
    assert weights_of(shares_of(point)) == close(point, 32)


@pytest.mark.parametrize("spec", [{}, {"curve": 3}, {"curve": 3, "interpolation": "monotone"}, {"layers": 2}])
def test_simplex_sums_up_in_every_layer(spec: Data) -> None:
    found, rng = space(*three(2, **spec)), random.Random(0)
    for _ in range(20):
        merged = drawn(found, rng)
        assert np.sum([weights(merged, i) for i in range(3)], axis=0) == close([2.0] * LAYERS, 32)


def test_simplex_around_fixed_and_absent_models() -> None:
    found = space(*three(), model("four", weight=0.25))
    assert sum(weights(made(found), i)[0] for i in range(3)) == close(0.75, 32)
    entries = [entry | {"include": {"search": [True, False]}} for entry in three()]
    merged = made(space(*entries), two__include=False)
    assert [entry.model for entry in merged.models] == ["a/one", "a/three"]
    assert [weights(merged, i)[0] for i in range(2)] == close([0.5, 0.5], 32)


def test_simplex_for_all_models_at_once() -> None:
    entries = [model(name, weight=None) for name in ("one", "two", "three")]
    found = space(*entries, parameters={"weight": {"search": "auto", "sums_to": 1}})
    assert made(found) == made(space(*three()))


def test_simplex_without_the_model_that_is_the_base() -> None:
    found = space(*three(), base_model={"search": ["a/one", "a/two", "a/three"]})
    merged = made(found, base_model="a/two")
    assert [entry.model for entry in merged.models] == ["a/one", "a/three"]
    assert sum(weights(merged, i)[0] for i in range(2)) == close(1.0, 32)


def test_the_base_stays_among_the_models_where_it_is_an_input() -> None:
    entries = [model("one", weight=HOLE), model("two", weight=HOLE)]
    found = space(*entries, method={"search": ["linear", "task_arithmetic"]}, base_model={"search": ["a/one", "a/two"]})
    assert [entry.model for entry in made(found, "linear").models] == ["a/one", "a/two"]
    assert [entry.model for entry in made(found, "task_arithmetic").models] == ["a/two"]
    assert (found.base, found.bases, found.models) == ("a/one", ["a/one", "a/two"], ["a/one", "a/two"])


def test_at_least_as_many_models_as_the_method_needs_stay_on() -> None:
    entries = [model(name, include={"search": [True, False]}) for name in ("one", "two", "three")]
    off = {"one__include": False, "two__include": False, "three__include": False}
    assert [entry.model for entry in made(space(*entries), **off).models] == ["a/one"]
    stock = [model(name, weight=None, include={"search": [True, False]}) for name in ("one", "two", "three")]
    merged = made(space(*stock, method="model_stock"), "model_stock", **off | {"three__include": True})
    assert [entry.model for entry in merged.models] == ["a/one", "a/three"]


def test_orders() -> None:
    found = Space(EVERY_KIND["order"], LAYERS, "recipe")
    assert found.dimensions[0].distribution == CategoricalDistribution(("one > two", "two > one"))
    merged = made(found, "add_difference", order="two > one")
    assert [entry.model for entry in merged.models] == ["a/two", "a/one"]
    mixed = EVERY_KIND["order"] | {"merge_method": {"search": ["add_difference", "model_stock"]}}
    assert Space(mixed, LAYERS, "recipe").dimensions_of(find_method("model_stock")) == []


def test_which_of_two_is_the_base() -> None:
    entries = [model("one", weight=None), model("two", weight=None)]
    found = space(*entries, method="nearswap", base_model={"search": ["a/one", "a/two"]}, parameters={"t": 0.1})
    for base, other in (("a/one", "a/two"), ("a/two", "a/one")):
        merged = made(found, "nearswap", base_model=base)
        assert (merged.base_model, [entry.model for entry in merged.models]) == (base, [other])


def test_holes_on_every_level() -> None:
    source = {"model": "a/one", "layer_range": [0, LAYERS], "parameters": {"weight": HOLE}}
    piece = {"sources": [source, source | {"model": "a/two"}], "parameters": {"density": HOLE}}
    data = {
        "merge_method": "ties",
        "base_model": "a/base",
        "parameters": {"lambda": HOLE},
        "modules": {"decoder": {"slices": [piece | {"base_model": {"search": ["a/base", "a/other"]}}]}},
    }
    found = Space(data, LAYERS, "recipe")
    assert [dimension.name for dimension in found.dimensions] == [
        "modules.decoder.slices[0].base_model",
        "lambda",
        "decoder.slice0.density",
        "decoder.slice0.one.weight",
        "decoder.slice0.two.weight",
    ]
    assert found.models == ["a/base", "a/other", "a/one", "a/two"]


def test_frozen_parts_are_handed_on() -> None:
    merged = made(space(model("one", weight=HOLE), frozen=["embed", {"layers": [0, 2]}]))
    kept = [part.name for part in merged.resolve(NAMES) if not part.models]
    assert kept == [NAMES[0], *NAMES[1:5]]


def same(*path: Any) -> Callable[[Data], None]:
    def edit(data: Data) -> None:
        target: Any = data
        for key in path[:-2]:
            target = target[key]
        target[path[-2]] = path[-1]

    return edit


FIRST = ("models", 0, "parameters", "weight")
WRONG: list[tuple[Callable[[Data], None], str]] = [
    (
        same(*FIRST, {"search": [0, 1], "log": True}),
        "weight.log: found a range that starts at 0, expected",
    ),
    (same(*FIRST, {"search": [0, 1], "step": 0.3}), "weight.step: found 0.3, expected a step that divides [0, 1]"),
    (same(*FIRST, {"search": [0.1, 1], "step": 0.1, "log": True}), "found both log and step"),
    (same(*FIRST, {"search": [0.5, 2], "int": True}), "weight.search: found [0.5, 2], expected whole numbers"),
    (same(*FIRST, {"search": [1, 2], "int": 1}), "weight.int: found 1, expected true or false"),
    (
        same(*FIRST, {"search": [1, 2, 3], "log": True}),
        "weight.log: found beside the choices [1, 2, 3]",
    ),
    (same(*FIRST, {"search": [1, 2, 1]}), "expected each choice once"),
    (same(*FIRST, {"search": "auto", "step": 1}), "weight.step: found beside search: auto, expected beside a range"),
    (same("parameters", {"eps": {"search": "auto"}}), "parameters.eps: ties has no parameter 'eps'; valid: density, "),
    (same(*FIRST, {"search": [0, 1], "interpolation": "monotone"}), "found 'monotone' without curve"),
    (same(*FIRST, HOLE | {"curve": 2, "interpolation": "monoton"}), "'monoton'; did you mean 'monotone'?"),
    (
        same("parameters", {"normalize": {"search": "auto", "curve": 2, "interpolation": "monotone"}}),
        "interpolation: found monotone, but normalize is of type switch",
    ),
    (same(*FIRST, [0, HOLE | {"curve": 2}]), "weight[1].curve: found inside of a gradient"),
    (same(*FIRST, {"same_as": "tow.weight"}), "same_as: there is no hole 'tow.weight'; did you mean 'two.weight'?"),
    (same(*FIRST, {"same_as": "one.weight"}), "same_as: found the cycle one.weight -> one.weight"),
    (same(*FIRST, {"same_as": "two.weight", "curve": 2}), "unknown key 'curve'"),
    (
        same("models", 0, "parameters", {"weight": 1, "density": {"same_as": "two.weight"}}),
        "do not fit density: 2.0 is",
    ),
    (same(*FIRST, HOLE | {"sums_to": 1}), "found {'search': [0.0, 2.0]} in models[1].parameters.weight"),
    (same(*FIRST, {"search": [0.1, 0.5], "sums_to": 1}), "weight.search: found [0.1, 0.5], expected auto or"),
    (same(*FIRST, {"search": "auto", "sums_to": 0}), "sums_to: found 0, expected a number above 0"),
    (same("dtype", {"search": ["float32", "bfloat16"]}), "dtype: found a hole where none is allowed"),
    (
        same("base_model", {"search": ["a/base"]}),
        "base_model.search: found ['a/base'], expected a list of two or more",
    ),
    (same("base_model", {"search": ["a/base", "a/base"]}), "expected each checkpoint once"),
    (same("order", {"search": "permutations"}), "order: found, but the order of the models changes nothing for ties"),
    (same("models", 0, "include", {"search": [0.0, 1.0, 2]}), "include: found {'search': [0.0, 1.0, 2]}, expected"),
    (same("models", 0, "model", {"search": ["a/three", "a/two"]}), "a/two is listed 2 times, expected once"),
    (same("frozen", "embed"), "frozen: found 'embed', expected"),
]


@pytest.mark.parametrize(("edit", "message"), WRONG)
def test_wrong_holes(edit: Callable[[Data], None], message: str) -> None:
    data = recipe(model("one", weight=HOLE), model("two", weight={"search": [0.0, 2.0]}))
    edit(data)
    with pytest.raises(UserError) as error:
        Space(data, LAYERS, "recipe")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (recipe(three()[0], model("two", weight=0.5)), "sums_to: found in one model, expected in two"),
        (
            recipe(*three(), model("four", weight=1.5)),
            "sums_to: found 1, expected more than 1.5, the sum",
        ),
        (
            recipe(*three()[:2], three(2)[2]),
            "'sums_to': 1} as in models[0].parameters.weight",
        ),
        (
            recipe(model("one", weight=HOLE | {"name": "x"}), model("two", weight=HOLE | {"name": "x"})),
            "name: found 'x' in models[0].parameters.weight, models[1].parameters.weight, expected a unique name",
        ),
        (
            recipe(model("one", weight={"same_as": "two.weight"}), model("two", weight={"same_as": "one.weight"})),
            "found the cycle one.weight -> two.weight -> one.weight",
        ),
        (EVERY_KIND["order"] | {"merge_method": "slerp"}, "which of two models is the base, give base_model: "),
        (
            EVERY_KIND["order"] | {"order": "permutations"},
            "order: found 'permutations', expected {search: permutations}",
        ),
        (EVERY_KIND["order"] | {"order": {"search": "all"}}, "order.search: found 'all', expected permutations or a"),
        (
            recipe(*(model(name) for name in "abcde"), method="add_difference", order={"search": "permutations"}),
            "order.search: found permutations of 5 models, expected 2 to 4 models",
        ),
        (
            recipe(model("one"), method="dare_ties", parameters={"seed": {"search": "auto"}}),
            "parameters.seed.search: found auto, but dare_ties declares no range for seed",
        ),
        (
            EVERY_KIND["slices"] | {"parameters": {"weight": {"search": "auto", "sums_to": 1}}},
            "parameters.weight.sums_to: expected in a parameter of a model, for its whole value; found outside",
        ),
        (
            recipe(model("one", weight=[0.0, {"search": "auto", "sums_to": 1}]), model("two")),
            "weight[1].sums_to: expected in a parameter of a model, for its whole value; found inside of a gradient",
        ),
        (
            recipe(model("one", weight=HOLE | {"curve": 2}), model("two", weight=[0.0, {"same_as": "one.weight"}])),
            "weight[1].same_as: 'one.weight' has several values over depth",
        ),
        (
            recipe(
                *three(),
                method={"search": ["ties", "slerp"]},
                parameters={"t": {"same_as": "one.weight"}},
            ),
            "parameters.t.same_as: 'one.weight' has no dimension for slerp, expected a hole that has one",
        ),
        (EVERY_KIND["order"] | {"order": {"search": [["one", "tow"]] * 2}}, "no model 'tow'; did you mean 'two'?"),
        (EVERY_KIND["order"] | {"order": {"search": [["one"], ["two"]]}}, "found ['one'], expected each of one, two"),
    ],
)
def test_wrong_recipes(data: Data, message: str) -> None:
    with pytest.raises(UserError) as error:
        Space(data, LAYERS, "recipe")
    assert message in str(error.value)


FOLDER = Path(__file__).parents[3] / "configs"
CONFIGS = [file for file in sorted(FOLDER.glob("*.yml")) if "recipe:" in file.read_text()]


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_the_example_configs(file: Path) -> None:
    config = Config.read(file)
    found = Space(config.recipe, 4, "recipe")
    assert found.dimensions
    for method in found.methods:
        assert list(found.fill(method, found.start(method, {})).resolve(NAMES[:9]))
