"""Corners of mergekit's YAML against mergekit itself, which lives in an environment of its own.

``scripts/check --slow`` makes that. By hand: ``MERGESEARCH_MERGEKIT=/path/to/mergekit-yaml pytest -m mergekit``.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from mergesearch.merge_ops.engine.documents import merge_file

from ...tolerances import assert_close
from ..helpers import GOLDEN, OPERATIONS, apart, read
from ..mergekit_recipes import RECIPES

DRIVER = """
import sys, yaml, traceback
from pathlib import Path
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
for file in sorted(Path(sys.argv[1]).glob("*.yml")):
    try:
        config = MergeConfiguration.model_validate(yaml.safe_load(file.read_text()))
        options = MergeOptions(quiet=True, clone_tensors=True, write_model_card=False)
        run_merge(config, str(file.with_suffix("")), options=options)
    except Exception:
        file.with_suffix(".error").write_text(traceback.format_exc())
"""
pytestmark = [pytest.mark.slow, pytest.mark.mergekit]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the inputs, and with a recipe and mergekit's result for each case."""
    folder = tmp_path_factory.mktemp("mergekit")
    (folder / "inputs").mkdir()
    for entry in (GOLDEN / "inputs").iterdir():
        (folder / "inputs" / entry.name).symlink_to(entry)
    _make_inputs(folder / "inputs")
    (folder / "cases").mkdir()
    for name, recipe in RECIPES.items():
        (folder / "cases" / f"{name}.yml").write_text(yaml.safe_dump(_written(recipe), sort_keys=False))
    python = Path(os.environ["MERGESEARCH_MERGEKIT"]).parent / "python"
    subprocess.run([python, "-c", DRIVER, "cases"], cwd=folder, check=True, capture_output=True)
    return folder


def _written(recipe: Any) -> Any:
    """Bare numbers among filters are written as mergekit wants them."""
    if isinstance(recipe, dict):
        return {key: _written(value) for key, value in recipe.items()}
    if isinstance(recipe, list):
        mixed = any(isinstance(entry, dict) and "value" in entry for entry in recipe)
        return [{"value": e} if mixed and not isinstance(e, dict) else _written(e) for e in recipe]
    return recipe


def _make_inputs(folder: Path) -> None:
    noise = torch.Generator().manual_seed(5)
    for made, weights, tokenizer, rows in (
        ("vocabC", "vocabA", "vocabA", 60),
        ("tiedA", "vocabA", "vocabA", 60),
        ("tiedB", "vocabB", "vocabB", 62),
        ("vocabP", "vocabA", "vocabA", 60),
    ):
        shutil.copytree(folder / tokenizer, folder / made)
        tensors = load_file(folder / weights / "model.safetensors")
        tensors = {name: t + torch.randn(t.shape, generator=noise) * 0.02 for name, t in tensors.items()}
        config = json.loads((folder / made / "config.json").read_text())
        assert config["vocab_size"] == rows
        if made.startswith("tied"):
            del tensors["lm_head.weight"]
            (folder / made / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
        save_file(tensors, folder / made / "model.safetensors", metadata={"format": "pt"})
    _permute_tokenizer(folder / "vocabP" / "tokenizer.json")
    _make_relatives(folder, noise)


def _make_relatives(folder: Path, noise: torch.Generator) -> None:
    """Fine-tunes that differ from the base and from each other in every element, at angles below 90 degrees."""
    base, tuned = (load_file(folder / name / "model.safetensors") for name in ("base", "ft1"))
    for made, share in (("ft1x", -0.4), ("near1", 0.7), ("near2", 0.5)):
        shutil.copytree(folder / "base", folder / made)
        (folder / made / "model.safetensors").unlink()
        shares = {name: base[name] + share * (tuned[name] - base[name]) for name in base}
        moved = {name: t + torch.randn(t.shape, generator=noise) * 0.01 for name, t in shares.items()}
        save_file(moved, folder / made / "model.safetensors", metadata={"format": "pt"})


def _permute_tokenizer(file: Path) -> None:
    """The same tokens, the plain ones in reverse order."""
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    plain = [token for token, index in vocabulary.items() if index > 2]
    numbers = sorted((vocabulary[token] for token in plain), reverse=True)
    content["model"]["vocab"] = {**vocabulary, **dict(zip(plain, numbers, strict=True))}
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("name", RECIPES)
def test_same_as_mergekit(name: str, workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    error = workplace / "cases" / f"{name}.error"
    assert not error.exists(), error.read_text()
    merge_file(workplace / "cases" / f"{name}.yml", tmp_path / "out")
    ours, theirs = read(tmp_path / "out"), read(workplace / "cases" / name)
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert (ours[key].dtype, ours[key].shape) == (tensor.dtype, tensor.shape), key
        if tensor.dtype == torch.bfloat16:
            assert int(apart(ours[key], tensor).max()) <= 1, key
        else:
            assert_close(ours[key], tensor, OPERATIONS)
    _assert_same_config(tmp_path / "out", workplace / "cases" / name)


def _assert_same_config(ours: Path, theirs: Path) -> None:
    one, two = (json.loads((folder / "config.json").read_text()) for folder in (ours, theirs))
    for key in ("num_hidden_layers", "vocab_size", "hidden_size"):
        assert one[key] == two[key], key
    import transformers

    loaded, info = transformers.AutoModelForCausalLM.from_pretrained(ours, output_loading_info=True)
    assert not any(info.values())
    if (theirs / "tokenizer.json").exists():
        vocabularies = [Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab() for folder in (ours, theirs)]
        assert vocabularies[0] == vocabularies[1]
    with torch.no_grad():
        assert loaded(torch.tensor([[1, 5, 7]])).logits.isfinite().all()
