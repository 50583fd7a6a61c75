"""Three tiny models, an adapter, a recipe and a config, each with as many keys as it can have."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ..search.helpers import save_fine_tunes

LETTERS = ["<s>", *"abcdefghijklmnopqrstuvwxyz .\n"]
QUERY = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoints base, one and two, an adapter, and the folder texts."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models")
    words = models.WordLevel({letter: index for index, letter in enumerate(LETTERS)}, unk_token="<s>")
    tokenizer = Tokenizer(words)
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<s>", unk_token="<s>")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(LETTERS), max_position_embeddings=64, **sizes)
    save_fine_tunes(folder, lambda: LlamaForCausalLM(config), fast, 0.02)
    _save_adapter(folder / "adapter")
    (folder / "texts").mkdir()
    for number in range(6):
        (folder / "texts" / f"{number}.txt").write_text(
            f"{'abcdef'[number]} few words of a text number {LETTERS[number]}\n"
        )
    return folder


def _save_adapter(folder: Path) -> None:
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    config |= {"alpha_pattern": {"q_proj": 3}, "rank_pattern": {}}
    switches = {"use_rslora": False, "fan_in_fan_out": False, "use_dora": False, "modules_to_save": None}
    (folder / "adapter_config.json").write_text(json.dumps({**config, **switches}))
    tensors = {f"{QUERY}.lora_A.weight": torch.ones(2, 8), f"{QUERY}.lora_B.weight": torch.ones(8, 2)}
    save_file(tensors, folder / "adapter_model.safetensors")


@pytest.fixture
def recipe(models: Path) -> dict[str, Any]:
    """A valid recipe of whole models."""
    weights = [{"filter": "mlp", "value": 0.3}, {"value": 0.6}]
    tokens = {"<s>": {"source": {"kind": "zero"}, "force": True}}
    return {
        "merge_method": "ties",
        "base_model": str(models / "base"),
        "models": [
            {"model": str(models / "one"), "parameters": {"weight": 0.5, "density": [0.2, 0.5]}},
            {"model": str(models / "two"), "parameters": {"weight": weights}},
        ],
        "parameters": {"lambda": 1.0, "normalize": True, "int8_mask": True},
        "dtype": "float32",
        "out_dtype": "float32",
        "tokenizer": {"source": "base", "tokens": tokens, "pad_to_multiple_of": 8},
        "chat_template": "chatml",
        "frozen": ["lm_head"],
        "name": "x",
    }


@pytest.fixture
def sliced_recipe(models: Path) -> dict[str, Any]:
    """A valid recipe of slices."""
    one, two = ({"model": str(models / name), "layer_range": [0, 1]} for name in ("one", "two"))
    linear = {"merge_method": "linear", "base_model": str(models / "base"), "parameters": {"weight": 1}}
    slices = [{"sources": [{**one, "parameters": {"scale": 1.0}}]}, {"sources": [two], **linear}]
    return {"merge_method": "passthrough", "slices": slices}


@pytest.fixture
def config(models: Path) -> dict[str, Any]:
    """A valid config with every kind of hole."""
    curve = {"search": [0.0, 1.5], "curve": 3, "interpolation": "monotone"}
    step = {"search": [0.0, 1.5], "step": 0.5, "name": "w"}
    one = {
        "model": str(models / "one"),
        "parameters": {"weight": curve, "density": {"search": [0.1, 1.0], "log": True}},
        "include": {"search": [True, False]},
    }
    two = {
        "model": {"search": [str(models / "two"), str(models / "base")]},
        "parameters": {"weight": [{"filter": "mlp", "value": step}, {"value": {"same_as": "w"}}]},
    }
    texts = str(models / "texts" / "*.txt")
    return {
        "recipe": {
            "merge_method": {"search": ["task_arithmetic", "ties"]},
            "base_model": str(models / "base"),
            "models": [one, two],
            "parameters": {"lambda": {"search": "auto"}},
            "dtype": "float32",
        },
        "evaluate": {
            "tasks": [{"evaluator": "bits_per_byte", "task": "text", "files": [texts], "weight": 1.0}],
            "split": {"search": 0.5, "test": 0.5, "seed": 0},
            "batch_size": 8,
            "batch_tokens": 512,
            "max_length": 32,
            "aggregate": "mean",
            "normalize": "none",
            "constraints": [{"task": "text", "never_above": "base", "by": 0.1}],
            "ensemble": True,
            "mode": "auto",
            "compile": False,
        },
        "search": {
            "trials": 5,
            "sampler": "auto",
            "seed": 0,
            "timeout": "1h",
            "patience": 3,
            "target": 1.0,
            "racing": {"error": 0.05, "first_block": 8},
            "start": "none",
            "gradient": {"steps": 4, "points": 2},
            "soups": ["uniform"],
            "storage": "sqlite:///x.db",
        },
        "output": {"name": "small", "model": False},
        "device": "cpu",
    }


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
