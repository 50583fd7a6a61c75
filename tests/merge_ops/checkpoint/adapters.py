"""Tiny bases, and adapters for them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers as t
from safetensors.torch import save_file
from torch import Tensor

from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint

from ..helpers import tensor

SIZES = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}
Q, UP, EMBED = "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj", "model.embed_tokens"
PREFIX = "base_model.model."


BASES: dict[str, Callable[[], Any]] = {
    "plain": lambda: t.LlamaForCausalLM(t.LlamaConfig(**SIZES, **HEADS)),
    "tied": lambda: t.LlamaForCausalLM(t.LlamaConfig(**SIZES, **HEADS, tie_word_embeddings=True)),
    "experts": lambda: t.MixtralForCausalLM(t.MixtralConfig(**SIZES, **HEADS, num_local_experts=2)),
}


def base_of(kind: str, folder: Path) -> str:
    t.utils.logging.disable_progress_bar()
    BASES[kind]().save_pretrained(folder)
    return str(folder)


def a_and_b(module: str, a: tuple[int, ...] = (4, 16), b: tuple[int, ...] = (16, 4)) -> dict[str, Tensor]:
    return {f"{module}.lora_A.weight": tensor(a, 1), f"{module}.lora_B.weight": tensor(b, 2)}


def adapter(folder: Path, tensors: dict[str, Tensor], **config: Any) -> str:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8, **config}))
    save_file(
        {f"{PREFIX}{name}": value.contiguous() for name, value in tensors.items()}, folder / "adapter_model.safetensors"
    )
    return str(folder)


PLAIN = a_and_b(Q)


def read_all(reference: str) -> dict[str, Tensor]:
    checkpoint = Checkpoint(reference)
    found = {name: checkpoint.tensor(name) for name in checkpoint.tensors}
    assert {name: value.shape for name, value in found.items()} == {n: i.shape for n, i in checkpoint.tensors.items()}
    assert not checkpoint.has_config or checkpoint.config
    return found
