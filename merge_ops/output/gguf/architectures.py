"""The architectures of transformers that GGUF files can be written of, and what llama.cpp has to know of a model.

Names of keys and tensors are those of the package ``gguf``. What a model has that llama.cpp does not compute in the
same way is refused.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mergesearch.errors import UserError
from mergesearch.text import quoted

ROTATED = ("q_proj.weight", "q_proj.bias", "k_proj.weight", "k_proj.bias")
"""The ends of the names of tensors whose rows llama.cpp has in another order, in Llamas."""


@dataclass(frozen=True)
class Family:
    """How an architecture of transformers becomes one of GGUF.

    Attributes:
        name: that of GGUF.
        permutes: whether rows of queries and keys are in pairs of neighbours there, and in halves in transformers.
        has_biases: whether attention may have biases that the config turns on.
    """

    name: str
    permutes: bool = False
    has_biases: bool = False


FAMILIES = {
    "LlamaForCausalLM": Family("llama", permutes=True, has_biases=True),
    "MistralForCausalLM": Family("llama", permutes=True),
    "Qwen2ForCausalLM": Family("qwen2"),
    "Qwen3ForCausalLM": Family("qwen3"),
}
"""By the name in ``architectures`` of the config."""


@dataclass(frozen=True)
class Model:
    """A model as its config describes it."""

    config: Mapping[str, Any]
    family: Family

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Model":
        """Raises UserError where llama.cpp would not compute what transformers does."""
        name = (config.get("architectures") or [None])[0]
        if name not in FAMILIES:
            raise UserError(f"architectures: found {quoted(name)}, expected one of {', '.join(FAMILIES)}")
        model = cls(config, FAMILIES[name])
        model._check()
        return model

    def _check(self) -> None:
        expected = {"hidden_act": "silu", "use_sliding_window": False}
        if not self.family.has_biases:
            expected |= {"attention_bias": False}
        for key, value in expected.items():
            if self.config.get(key, value) != value:
                raise UserError(f"{key}: found {quoted(self.config[key])}, expected {quoted(value)}")
        if self._rope["rope_type"] not in ("default", "llama3"):
            raise UserError(f"rope_type: found {quoted(self._rope['rope_type'])}, expected default or llama3")
        if "sliding_attention" in (self.config.get("layer_types") or ()):
            raise UserError("layer_types: found sliding_attention, expected full_attention in every layer")

    @property
    def _rope(self) -> dict[str, Any]:
        """The rotation's parameters: under one key since transformers 5, under two before."""
        given = self.config.get("rope_parameters") or self.config.get("rope_scaling") or {}
        kind = given.get("rope_type") or given.get("type") or "default"
        return {**given, "rope_type": kind, "rope_theta": given.get("rope_theta") or self.config.get("rope_theta", 1e4)}

    @property
    def layers(self) -> int:
        return int(self.config["num_hidden_layers"])

    @property
    def heads(self) -> int:
        return int(self.config["num_attention_heads"])

    @property
    def key_heads(self) -> int:
        return int(self.config.get("num_key_value_heads") or self.heads)

    @property
    def head_size(self) -> int:
        return int(self.config.get("head_dim") or self.config["hidden_size"] // self.heads)

    @property
    def is_tied(self) -> bool:
        return bool(self.config.get("tie_word_embeddings"))

    @property
    def context(self) -> int:
        """How many tokens the model takes; no more than its window of attention, which llama.cpp does not have."""
        window = self.config.get("sliding_window") if self.config.get("use_sliding_window", True) else None
        return int(min(self.config["max_position_embeddings"], window or math.inf))

    def add_to(self, writer: Any, vocabulary: int) -> None:
        """Adds what llama.cpp has to know to a ``gguf.GGUFWriter``; ``vocabulary`` is the number of tokens."""
        writer.add_context_length(self.context)
        writer.add_embedding_length(self.config["hidden_size"])
        writer.add_block_count(self.layers)
        writer.add_feed_forward_length(self.config["intermediate_size"])
        writer.add_head_count(self.heads)
        writer.add_head_count_kv(self.key_heads)
        writer.add_key_length(self.head_size)
        writer.add_value_length(self.head_size)
        writer.add_rope_dimension_count(self.head_size)
        writer.add_rope_freq_base(float(self._rope["rope_theta"]))
        writer.add_layer_norm_rms_eps(self.config["rms_norm_eps"])
        writer.add_vocab_size(vocabulary)

    def reordered(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor by its checkpoint name with its rows as llama.cpp has them."""
        if not self.family.permutes or not name.endswith(ROTATED):
            return tensor
        heads = self.heads if "q_proj" in name else self.key_heads
        halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
        return halves.transpose(1, 2).reshape(tensor.shape)

    @property
    def rope_factors(self) -> Tensor | None:
        """[head_size / 2] float32: what the frequencies of Llama 3.1 and later are divided by; None for others."""
        rope = self._rope
        if rope["rope_type"] != "llama3":
            return None
        low, high, old = (float(rope[key]) for key in ("low_freq_factor", "high_freq_factor", ORIGINAL))
        steps = torch.arange(0, self.head_size, 2, dtype=torch.float64) / self.head_size
        turns = old / (2 * math.pi * float(rope["rope_theta"]) ** steps)
        smooth = ((turns - low) / (high - low)).clamp(0, 1)
        return (1 / ((1 - smooth) / float(rope["factor"]) + smooth)).float()


ORIGINAL = "original_max_position_embeddings"
