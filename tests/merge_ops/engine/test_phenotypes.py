"""Candidates are what they compute: recipes with one key have the same bytes, whatever their methods."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.checkpoint.content import CheckpointContent
from mergesearch.merge_ops.engine.engine import Engine
from mergesearch.merge_ops.methods import METHODS
from mergesearch.merge_ops.recipe.recipe import Recipe

from ..endpoints import ENDPOINTS
from ..helpers import INPUTS, WITHOUT_TEXT, count_of, recipe_data

BASE = str(INPUTS / "base")
TUNED = [str(INPUTS / name) for name in ("ft1", "ft2", "ft3")]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine([BASE, *TUNED], BASE)


@pytest.fixture(scope="module")
def contents() -> dict[str, Any]:
    return {reference: CheckpointContent.of(Checkpoint(reference)).tensors for reference in (BASE, *TUNED)}


def at_endpoints() -> list[Recipe]:
    """Every method at its endpoints, at two random settings, and each model by itself."""
    found = []
    for method in map(METHODS.__getitem__, WITHOUT_TEXT):
        settings: list[dict[str, Any]] = [settings for _, settings, _ in ENDPOINTS[method.name]]
        for seed, fixed in enumerate([*settings, {}, {}]):
            models = TUNED[: count_of(method)]
            found.append(Recipe.read(recipe_data(method, BASE, models, seed, **fixed)))
    alone = [
        {"merge_method": "linear", "models": [{"model": m, "parameters": {"weight": 0.3}}]} for m in (BASE, *TUNED)
    ]
    through = [{"merge_method": "passthrough", "models": [{"model": model}]} for model in (BASE, *TUNED)]
    return [*found, *map(Recipe.read, [*alone, *through])]


@pytest.mark.parametrize("has_contents", [True, False])
def test_recipes_with_one_key_have_the_same_bytes(engine: Engine, contents: dict[str, Any], has_contents: bool) -> None:
    digests: dict[str, set[str]] = defaultdict(set)
    methods: dict[str, set[str]] = defaultdict(set)
    for recipe in at_endpoints():
        key = engine.phenotype(recipe, contents if has_contents else {})
        engine.build(recipe)
        digests[key].add(engine.digest())
        methods[key].add(recipe.merge_method)
    assert {len(found) for found in digests.values()} == {1}
    base = engine.phenotype(Recipe.read({"merge_method": "passthrough", "models": [{"model": BASE}]}), contents)
    if has_contents:
        assert len(methods[base]) >= 15, "as many methods leave the base"


def test_what_leaves_a_model_has_the_models_bytes(engine: Engine) -> None:
    for model in (BASE, *TUNED):
        for data in (
            {"merge_method": "linear", "models": [{"model": model, "parameters": {"weight": 7.0}}]},
            {"merge_method": "karcher", "models": [{"model": model}]},
        ):
            engine.build(Recipe.read(data))
            assert engine.digest() == Checkpoint(model).digest()


def test_a_copy_of_a_checkpoint_is_the_same_model(tmp_path: Path) -> None:
    """Under another path, in another file, the same tensors are the same candidate."""
    twin = tmp_path / "twin"
    twin.mkdir()
    for file in Path(TUNED[0]).iterdir():
        (twin / file.name).write_bytes(file.read_bytes())
    engine = Engine([BASE, TUNED[0], str(twin)], BASE)
    contents = {name: CheckpointContent.of(Checkpoint(name)).tensors for name in (TUNED[0], str(twin))}
    one, two = (
        engine.phenotype(Recipe.read({"merge_method": "passthrough", "models": [{"model": name}]}), contents)
        for name in (TUNED[0], str(twin))
    )
    assert one == two


def test_parts_that_are_copies_count_too(engine: Engine, contents: dict[str, Any]) -> None:
    """Two methods that change the same tensors in the same way; the rest is the base's by different settings."""

    def key(weight: Any, factor: float = 1.0) -> str:
        models = [{"model": TUNED[0], "parameters": {"weight": weight}}]
        shared = {"parameters": {"lambda": factor}}
        data = {"merge_method": "task_arithmetic", "base_model": BASE, "models": models, **shared}
        return engine.phenotype(Recipe.read(data), contents)

    only_mlp = [{"filter": "mlp", "value": 0.5}, {"value": 0}]
    assert key(only_mlp) == key([{"filter": "mlp", "value": 0.5}, {"value": 0.0}])
    assert key(only_mlp) != key(0.5)
    assert key(0) == key(0.5, 0.0)
