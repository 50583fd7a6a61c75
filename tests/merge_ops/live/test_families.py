"""Models of many families, in the layouts of files that are found for them: merged, searched and loaded."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.engine.engine import Engine, merge
from mergesearch.merge_ops.recipe.recipe import Recipe

from ...tolerances import assert_close
from ..helpers import OPERATIONS, same_bytes
from .families import FAMILIES, Family, answers, loaded, saved, tuned

QUICK = (
    "gpt2",
    "bert-mlm",
    "minilm",
    "t5",
    "whisper-untied-model",
    "llama",
    "bert-untied-model",
    "qwen2-moe",
    "llava",
    "wav2vec2",
    "qwen2-vl",
)
EVERY = pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)


@pytest.fixture(autouse=True)
def _no_progress_bars() -> None:
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def recipe(method: str, base: str, models: list[str], **parameters: Any) -> Recipe:
    entries = [{"model": m, "parameters": {"weight": 0.25 * (i + 1), **parameters}} for i, m in enumerate(models)]
    return Recipe.read({"merge_method": method, "base_model": base, "models": entries})


def folders(family: Family, path: Path) -> list[str]:
    return [saved(path / str(seed), tuned(family.make, seed), layout) for seed, layout in enumerate(family.layouts)]


def is_made_up(name: str) -> bool:
    """Whether transformers makes up the tensor where a file does not have it."""
    return name.startswith("pooler.") or name.endswith("embed_positions.weight")


@EVERY
def test_every_layout_is_merged_as_what_transformers_loads(name: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    base, *models = folders(family, tmp_path)
    merge(recipe("task_arithmetic", base, models), tmp_path / "out")
    first, second, third, result = (loaded(f).state_dict() for f in (base, *models, tmp_path / "out"))
    assert result.keys() == first.keys()
    for key in first:
        if not is_made_up(key):
            wide = [each[key].double() for each in (first, second, third)]
            expected = wide[0] + 0.25 * (wide[1] - wide[0]) + 0.5 * (wide[2] - wide[0])
            assert_close(result[key], expected.float(), OPERATIONS)


@EVERY
def test_what_is_scored_is_what_is_written(name: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    base, *models = folders(family, tmp_path)
    engine = Engine([base, *models], base)
    one = recipe("dare_ties", base, models, density=0.5)
    live = engine.build(one)
    engine.write(one, tmp_path / "out")
    merge(one, tmp_path / "again")
    written = Checkpoint(str(tmp_path / "out"))
    assert written.digest() == engine.digest() == Checkpoint(str(tmp_path / "again")).digest()
    again = loaded(tmp_path / "out")
    built, read = live.state_dict(), again.state_dict()
    assert [key for key in built if not (is_made_up(key) or same_bytes(built[key], read[key]))] == []
    assert_close(answers(live, family.ask), answers(again, family.ask), OPERATIONS)
    assert not torch.equal(answers(again, family.ask), answers(loaded(base), family.ask))
