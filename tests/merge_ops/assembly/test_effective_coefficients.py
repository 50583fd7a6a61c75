"""Effective coefficients of built models, against least squares of whole vectors in numpy."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from mergesearch.merge_ops.assembly.effective_coefficients import (
    Input,
    Part,
    PartCoefficients,
    least_squares,
)
from mergesearch.merge_ops.engine.engine import Engine
from mergesearch.merge_ops.methods import METHODS
from mergesearch.merge_ops.recipe.layout import layer_of
from mergesearch.merge_ops.recipe.recipe import Recipe

from ...tolerances import close, tolerance
from ..helpers import INPUTS, OPERATIONS, WITHOUT_TEXT, read, recipe_data, save

Array = NDArray[np.float64]
BASE = str(INPUTS / "base")
TUNED = [str(INPUTS / name) for name in ("ft1", "ft2", "ft3")]
DEEP, DEEP_TUNED = str(INPUTS / "L4-base"), str(INPUTS / "L4-ft1")
ROUNDED = tolerance(OPERATIONS, torch.float32, 10.0)
"""Of coefficients, as built tensors are rounded to float32: weights are a few times as large as their changes."""
WHOLE = Part()


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine([BASE, *TUNED], BASE)


def by_part(engine: Engine, recipe: Recipe) -> dict[Part, PartCoefficients]:
    engine.build(recipe)
    return {each.part: each for each in engine.effective_coefficients()}


def mixture(method: str, weights: Sequence[float], base: str | None = BASE, **keys: Any) -> Recipe:
    models = [{"model": m, "parameters": {"weight": w}} for m, w in zip(TUNED, weights, strict=False)]
    own = {"base_model": base} if base else {}
    return Recipe.read({"merge_method": method, "models": models, **own, **keys})


def weights_of(each: PartCoefficients, weights: Sequence[float]) -> list[float]:
    """The weights that a part shows: 0 for models that equal the base there."""
    return [w if delta else 0.0 for w, delta in zip(weights, each.deltas, strict=True)]


def vector(tensors: dict[str, Tensor], chosen: Callable[[str], bool]) -> Array:
    return torch.cat([tensors[n].double().flatten() for n in sorted(tensors) if chosen(n)]).numpy()


def naive(built: Array, models: Sequence[Array], base: Array | None) -> tuple[Array, float]:
    """Coefficients, and the share of the change that they explain."""
    origin = 0.0 if base is None else base
    matrix, change = np.stack([model - origin for model in models], axis=1), built - origin
    coefficients = np.linalg.lstsq(matrix, change, rcond=None)[0]
    left = np.sum((change - matrix @ coefficients) ** 2)
    total = min(np.sum((built - model) ** 2) for model in models) if base is None else np.sum(change**2)
    return coefficients, 1 - left / total


@pytest.mark.parametrize("name", WITHOUT_TEXT)
def test_parts_as_numpy_solves_them(name: str, engine: Engine) -> None:
    recipe = Recipe.read(recipe_data(METHODS[name], BASE, TUNED))
    found = by_part(engine, recipe)
    models = [model for model in recipe.references if model != recipe.base_model]
    contents = {reference: read(Path(reference)) for reference in recipe.references}
    built = dict(engine.views)
    choices: dict[Part, Callable[[str], bool]] = {
        WHOLE: lambda _: True,
        Part("model.layers", 1): lambda name: layer_of(name) == ("model.layers", 1),
        Part("model.layers", 0, "mlp.up_proj"): lambda name: name == "model.layers.0.mlp.up_proj.weight",
        Part("model.layers", module="self_attn.q_proj"): lambda name: "q_proj" in name,
        Part(module="lm_head"): lambda name: name == "lm_head.weight",
    }
    for part, chosen in choices.items():
        vectors = {reference: vector(tensors, chosen) for reference, tensors in contents.items()}
        base = vectors[recipe.base_model] if recipe.base_model else None
        coefficients, explained = naive(vector(built, chosen), [vectors[model] for model in models], base)
        one = found[part]
        assert one.inputs == tuple(map(Input, models))
        assert list(one.coefficients) == close(
            coefficients, len(vectors[BASE if base is not None else models[0]]), magnitude=1e3
        )
        # Without a base, what is left of the change is a small difference of squares of whole weights.
        assert one.explained is not None
        assert one.explained == pytest.approx(explained, abs=1e-6)
        if base is not None:
            assert one.change == pytest.approx(np.linalg.norm(vector(built, chosen) - base) / np.linalg.norm(base))
            deltas = [np.linalg.norm(vectors[model] - base) / np.linalg.norm(base) for model in models]
            assert list(one.deltas) == pytest.approx(deltas)


def test_task_arithmetic_has_its_weights_in_every_part(engine: Engine) -> None:
    found = by_part(engine, mixture("task_arithmetic", [0.5, -0.25, 1.5]))
    assert {part.layer for part in found} == {None, 0, 1}
    for each in found.values():
        assert list(each.coefficients) == pytest.approx(weights_of(each, [0.5, -0.25, 1.5]), abs=ROUNDED)
        assert each.explained == pytest.approx(1.0, abs=ROUNDED)


def test_a_linear_merge_has_its_weights_without_a_base(engine: Engine) -> None:
    found = by_part(engine, mixture("linear", [3.0, 1.0], None))
    for each in found.values():
        assert list(each.coefficients) == pytest.approx([0.75, 0.25], abs=ROUNDED)
        assert each.explained == pytest.approx(1.0, abs=ROUNDED)


def test_a_linear_merge_can_be_measured_from_a_base(engine: Engine) -> None:
    weights, models = [0.5, 0.3, 0.2], [TUNED[0], BASE, TUNED[1]]
    entries = [{"model": m, "parameters": {"weight": w}} for m, w in zip(models, weights, strict=True)]
    engine.build(Recipe.read({"merge_method": "linear", "models": entries}))
    whole = next(each for each in engine.effective_coefficients(BASE) if each.part == WHOLE)
    assert whole.inputs == (Input(TUNED[0]), Input(TUNED[1]))
    assert list(whole.coefficients) == pytest.approx([0.5, 0.2], abs=ROUNDED)
    assert whole.explained == pytest.approx(1.0, abs=ROUNDED)


def test_a_copy_is_not_changed(engine: Engine) -> None:
    found = by_part(
        engine, Recipe.read({"merge_method": "linear", "models": [{"model": TUNED[0]}], "parameters": {"weight": 1}})
    )
    assert {(each.change, each.explained) for each in found.values()} == {(0.0, None)}
    assert [each.coefficients[0] for each in found.values()] == pytest.approx([1.0] * len(found))


def test_election_by_sign_is_no_weighted_sum(engine: Engine) -> None:
    data = mixture("ties", [1.0, 1.0], parameters={"density": 0.3}).model_dump(exclude_none=True)
    explained = by_part(engine, Recipe.read(data))[WHOLE].explained
    assert explained is not None
    assert 0.1 < explained < 0.9


def test_what_is_frozen_has_none_of_any_model(engine: Engine) -> None:
    found = by_part(engine, mixture("task_arithmetic", [0.5, 0.5], frozen=["mlp"]))
    frozen = found[Part("model.layers", 1, "mlp.up_proj")]
    assert (list(frozen.coefficients), frozen.change, frozen.explained) == ([0.0, 0.0], 0.0, None)
    merged = found[Part("model.layers", 1, "self_attn.q_proj")]
    assert list(merged.coefficients) == pytest.approx(weights_of(merged, [0.5, 0.5]), abs=ROUNDED)
    assert any(merged.coefficients)


def test_rounding_to_the_dtype_counts_as_explained() -> None:
    names = [str(INPUTS / f"bf16-{name}") for name in ("base", "ft1", "ft2")]
    models = [{"model": name, "parameters": {"weight": 0.1}} for name in names[1:]]
    recipe = Recipe.read({"merge_method": "task_arithmetic", "base_model": names[0], "models": models})
    found = by_part(Engine(names, names[0]), recipe)[WHOLE]
    assert list(found.coefficients) == pytest.approx([0.1, 0.1], abs=5e-3)
    assert found.explained == pytest.approx(1.0, abs=5e-3)


def test_models_that_are_equal_in_a_part_share_its_coefficient(tmp_path: Path) -> None:
    (tmp_path / "twin").mkdir()
    (tmp_path / "twin" / "config.json").write_bytes((Path(TUNED[0]) / "config.json").read_bytes())
    tensors = {**read(Path(TUNED[0])), "lm_head.weight": read(Path(BASE))["lm_head.weight"]}
    save(tmp_path / "twin" / "model.safetensors", tensors)
    twin = str(tmp_path / "twin")
    models = [{"model": m, "parameters": {"weight": w}} for m, w in ((TUNED[0], 0.2), (twin, 0.6))]
    recipe = Recipe.read({"merge_method": "task_arithmetic", "base_model": BASE, "models": models})
    found = by_part(Engine([BASE, TUNED[0], twin], BASE), recipe)
    assert list(found[Part("model.layers", 0)].coefficients) == pytest.approx([0.4, 0.4], abs=ROUNDED)
    assert list(found[Part(module="lm_head")].coefficients) == pytest.approx([0.2, 0.0], abs=ROUNDED)


def test_slices_have_the_layers_that_they_come_from() -> None:
    sources = [(DEEP_TUNED, [2, 4], 1.0), (DEEP, [0, 2], 0.5)]
    slices = [
        {"sources": [{"model": model, "layer_range": layers, "parameters": {"scale": scale}}]}
        for model, layers, scale in sources
    ]
    recipe = Recipe.read({"merge_method": "passthrough", "base_model": DEEP, "slices": slices})
    found = by_part(Engine([DEEP, DEEP_TUNED], DEEP), recipe)
    layers = {part.layer: each for part, each in found.items() if part.layer is not None and not part.module}
    places = {number: (each.inputs[0], each.coefficients[0]) for number, each in layers.items()}
    assert {number: place[0] for number, place in places.items()} == {
        0: Input(DEEP_TUNED, 2),
        1: Input(DEEP_TUNED, 3),
        2: Input(DEEP, 0),
        3: Input(DEEP, 1),
    }
    assert [place[1] for place in places.values()] == pytest.approx([1.0, 1.0, 0.5, 0.5], abs=ROUNDED)
    assert WHOLE not in found


def test_a_merge_of_slices_is_measured_from_the_base_of_each() -> None:
    sources = [
        {"model": DEEP_TUNED, "layer_range": [1, 3], "parameters": {"weight": 0.7}},
        {"model": DEEP, "layer_range": [0, 2]},
    ]
    recipe = Recipe.read({"merge_method": "task_arithmetic", "base_model": DEEP, "slices": [{"sources": sources}]})
    found = by_part(Engine([DEEP, DEEP_TUNED], DEEP), recipe)
    layer = found[Part("model.layers", 1)]
    assert layer.inputs == (Input(DEEP_TUNED, 2),)
    assert list(layer.coefficients) == pytest.approx([0.7], abs=ROUNDED)


def test_no_vector_and_vectors_of_zeros() -> None:
    coefficients, left = least_squares(np.array([[4.0]]))
    assert (coefficients.tolist(), left) == ([], 4.0)
    coefficients, left = least_squares(np.diag([0.0, 9.0]))
    assert (coefficients.tolist(), left) == ([0.0], 9.0)
