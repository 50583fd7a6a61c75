"""Corners of mergekit's YAML against mergekit itself, which lives in an environment of its own.

Run with ``MERGESEARCH_MERGEKIT=/path/to/bin/mergekit-yaml pytest -m mergekit``.
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

from mergesearch.merge_ops.documents import merge_file

from .helpers import GOLDEN, apart, read

MERGEKIT = Path(os.environ.get("MERGESEARCH_MERGEKIT", ""))
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
pytestmark = [
    pytest.mark.mergekit,
    pytest.mark.skipif(not MERGEKIT.is_file(), reason="MERGESEARCH_MERGEKIT names no mergekit-yaml"),
]


def source(name: str, layers: list[int], **parameters: Any) -> dict[str, Any]:
    own = {"parameters": parameters} if parameters else {}
    return {"model": f"inputs/{name}", "layer_range": layers, **own}


def model(name: str, **parameters: Any) -> dict[str, Any]:
    own = {"parameters": parameters} if parameters else {}
    return {"model": f"inputs/{name}", **own}


HALVES = [model("vocabA", weight=0.5), model("vocabB", weight=0.5)]
RECIPES: dict[str, dict[str, Any]] = {
    "filters and gradients": {
        "merge_method": "linear",
        "models": [
            model("L4-ft1", weight=[{"filter": "attn", "value": [0, 1]}, {"filter": "layers.2.", "value": 3}, 0.5]),
            model("L4-ft2", weight=[{"filter": "norm", "value": 2}, {"value": [1, 0.1, 0.7]}]),
        ],
    },
    "filters that leave the rest to the recipe": {
        "merge_method": "task_arithmetic",
        "base_model": "inputs/L4-base",
        "models": [model("L4-ft1", weight=[{"filter": "mlp", "value": 0.2}]), model("L4-ft2")],
        "parameters": {"weight": [{"filter": "self_attn", "value": [0.9, 0.1]}, {"value": 0.4}]},
    },
    "a base per slice": {
        "merge_method": "task_arithmetic",
        "base_model": "inputs/L4-base",
        "slices": [
            {"sources": [source("L4-base", [0, 2]), source("L4-ft1", [0, 2], weight=[0.1, 0.9])]},
            {
                "sources": [source("L4-ft2", [2, 4]), source("L4-ft1", [2, 4], weight=0.7)],
                "base_model": "inputs/L4-ft2",
            },
        ],
    },
    "lambda at every level": {
        "merge_method": "ties",
        "base_model": "inputs/L4-base",
        "parameters": {"lambda": 0.9, "density": 0.7, "normalize": False},
        "slices": [
            {
                "sources": [
                    source("L4-base", [0, 1]),
                    source("L4-ft1", [0, 1], weight=1, density=0.3),
                    source("L4-ft2", [0, 1], weight=0.5),
                ],
                "parameters": {"lambda": 0.5, "density": 0.5},
            },
            {
                "sources": [
                    source("L4-base", [1, 4]),
                    source("L4-ft1", [1, 4], weight=[{"filter": "layers.2.", "value": 0.3}, {"value": 1}]),
                    source("L4-ft2", [1, 4], weight=0.5),
                ],
                "parameters": {"lambda": [{"filter": "mlp", "value": [0.2, 0.8]}]},
            },
        ],
    },
    "layers that are repeated and interleaved": {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [source("L4-ft1", [0, 2])]},
            {"sources": [source("L4-ft2", [1, 3], scale=[{"filter": "layers.1.mlp.down_proj", "value": 0.5}])]},
            {"sources": [source("L4-ft1", [1, 3])]},
            {"sources": [source("L4-ft2", [3, 4])]},
        ],
    },
    "layers of other depths": {
        "merge_method": "slerp",
        "base_model": "inputs/L4-ft1",
        "slices": [
            {
                "sources": [source("L4-ft1", [0, 3]), source("L4-ft2", [1, 4])],
                "parameters": {"t": [{"filter": "self_attn", "value": [0, 0.5, 1]}, {"value": [1, 0]}]},
            },
            {"sources": [source("L4-ft1", [2, 3]), source("L4-ft2", [0, 1])], "parameters": {"t": [0.2, 0.6]}},
        ],
        "parameters": {"t": 0.3},
    },
    "modules": {
        "merge_method": "linear",
        "modules": {
            "default": {
                "slices": [{"sources": [source("L4-ft1", [0, 3], weight=1), source("L4-ft2", [1, 4])]}],
                "parameters": {"weight": 0.5},
            }
        },
        "parameters": {"normalize": False},
    },
    "a module of models": {
        "merge_method": "linear",
        "modules": {"default": {"models": [model("L4-ft1", weight=[1, 0]), model("L4-ft2")]}},
        "parameters": {"weight": [0.2, 0.5]},
    },
    "one layer": {
        "merge_method": "slerp",
        "base_model": "inputs/vocabA",
        "models": [model("vocabA"), model("vocabC")],
        "parameters": {"t": [{"filter": "mlp", "value": [0.1, 0.5, 0.9]}, {"value": [0.3, 0.6]}]},
    },
    "a base that is not among the models": {
        "merge_method": "linear",
        "base_model": "inputs/base",
        "models": [model("ft1", weight=0.3), model("ft2")],
        "parameters": {"weight": 0.7},
    },
    "karcher with a base": {"merge_method": "karcher", "base_model": "inputs/base", "models": [model("ft1")]},
    "tied and untied": {
        "merge_method": "linear",
        "models": [model("tied-ft1", weight=0.5), model("untied-ft1", weight=0.5)],
        "base_model": "inputs/untied-ft1",
    },
    "union of tied models": {
        "merge_method": "linear",
        "base_model": "inputs/tiedA",
        "models": [model("tiedA", weight=0.4), model("tiedB", weight=0.6)],
        "tokenizer_source": "union",
    },
    "union with a base": {
        "merge_method": "task_arithmetic",
        "base_model": "inputs/vocabA",
        "models": [model("vocabB", weight=0.5), model("vocabC", weight=0.5)],
        "tokenizer": {"source": "union"},
    },
    "another model's tokenizer": {
        "merge_method": "linear",
        "base_model": "inputs/vocabA",
        "models": HALVES,
        "tokenizer_source": "inputs/vocabB",
    },
    "permuted": {
        "merge_method": "linear",
        "base_model": "inputs/vocabA",
        "models": [model("vocabA", weight=0.5), model("vocabP", weight=0.5)],
        "tokenizer_source": "inputs/vocabP",
    },
    "padded": {
        "merge_method": "linear",
        "base_model": "inputs/vocabA",
        "models": HALVES,
        "tokenizer": {"source": "union", "pad_to_multiple_of": 16},
    },
    "tokens": {
        "merge_method": "linear",
        "base_model": "inputs/vocabA",
        "models": HALVES,
        "tokenizer": {
            "source": "union",
            "tokens": {
                "<|x|>": {"source": "inputs/vocabB", "force": True},
                "<|y|>": {"source": {"kind": "model_token", "model": "inputs/vocabA", "token": "the"}},
                "<|z|>": {"source": {"kind": "model_token", "model": "inputs/vocabB", "token_id": 7}},
                "<|0|>": {"source": {"kind": "zero"}},
                "cat": {"source": "inputs/vocabA", "force": True},
            },
        },
    },
    "rows beyond the tokens": {
        "merge_method": "linear",
        "base_model": "inputs/L4-ft1",
        "models": [model("L4-ft1", weight=0.5), model("L4-ft2", weight=0.5)],
        "tokenizer": {"source": "base"},
    },
    "slices and a vocabulary": {
        "merge_method": "linear",
        "base_model": "inputs/vocabA",
        "slices": [
            {"sources": [source("vocabA", [0, 1], weight=0.5), source("vocabB", [0, 1], weight=0.5)]},
            {"sources": [source("vocabA", [0, 1], weight=0.1), source("vocabB", [0, 1], weight=0.9)]},
        ],
        "tokenizer": {"source": "union"},
    },
    "out_dtype": {
        "merge_method": "linear",
        "models": [model("ft1", weight=0.5), model("ft2", weight=0.25)],
        "dtype": "float32",
        "out_dtype": "bfloat16",
    },
    "wider than the inputs": {
        "merge_method": "slerp",
        "base_model": "inputs/bf16-ft1",
        "models": [model("bf16-ft1"), model("bf16-ft2")],
        "parameters": {"t": 0.4},
        "dtype": "float32",
    },
    "mixed dtypes": {
        "merge_method": "linear",
        "models": [model("bf16-ft1", weight=0.5), model("ft2", weight=0.25)],
        "base_model": "inputs/ft2",
    },
    "what old files carry": {
        "merge_method": "slerp",
        "base_model": "inputs/ft1",
        "models": [model("ft1"), model("ft2")],
        "parameters": {"t": "5e-1", "embed_slerp": True},
        "dtype": "torch.float32",
    },
    "whole ties": {
        "merge_method": "ties",
        "base_model": "inputs/L4-base",
        "models": [model("L4-base"), model("L4-ft1", weight=[1, 0.2], density=[0.2, 0.9]), model("L4-ft2", weight=-1)],
        "parameters": {"density": [{"filter": "self_attn", "value": 0.3}, {"value": 0.8}], "int8_mask": True},
    },
}


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
    python = MERGEKIT.parent / "python"
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
            torch.testing.assert_close(ours[key], tensor, atol=1e-5, rtol=0, msg=key)
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
