"""Small models of many kinds, with inputs."""

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mergesearch.merge_ops.alignment.models import INNER
from mergesearch.merge_ops.alignment.trace import outputs_of

SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 6, "intermediate_size": 40}
TEXT = {**SIZES, "vocab_size": 50, "max_position_embeddings": 32}
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
CONFIGS: dict[str, Callable[[], Any]] = {
    "LlamaForCausalLM": lambda: transformers.LlamaConfig(**TEXT, **SPECIAL, num_key_value_heads=3, head_dim=4),
    "MixtralForCausalLM": lambda: transformers.MixtralConfig(
        **TEXT, **SPECIAL, num_key_value_heads=2, head_dim=4, num_local_experts=5, num_experts_per_tok=2
    ),
    "GPT2LMHeadModel": lambda: transformers.GPT2Config(
        n_embd=24, n_layer=2, n_head=3, vocab_size=50, n_positions=32, **SPECIAL
    ),
    "BertForSequenceClassification": lambda: transformers.BertConfig(**TEXT, num_labels=3),
    "T5ForConditionalGeneration": lambda: transformers.T5Config(
        d_model=24, d_kv=6, d_ff=40, num_layers=2, num_heads=3, vocab_size=50, decoder_start_token_id=0
    ),
    "ViTForImageClassification": lambda: transformers.ViTConfig(**SIZES, image_size=16, patch_size=4),
    "ResNetForImageClassification": lambda: transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[16, 20], depths=[2, 1], layer_type="bottleneck", num_channels=3
    ),
}
"""The config of each model of transformers."""


class Mlp(nn.Sequential):
    """A plain module."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(5, 11), nn.ReLU(), nn.Linear(11, 9), nn.Tanh(), nn.Linear(9, 3))


class Cnn(nn.Sequential):
    """Convolutions with batch norm, and a linear layer of flattened images."""

    def __init__(self) -> None:
        first = [nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)]
        second = [nn.Conv2d(8, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 7 * 7, 10)]
        super().__init__(*first, *second)


PLAIN: dict[str, tuple[type[nn.Module], tuple[int, ...]]] = {"mlp": (Mlp, (4, 5)), "cnn": (Cnn, (2, 3, 16, 16))}
"""Modules that are none of transformers', and the shape of their input."""


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """Returns the model with random values everywhere, norms and biases too, in float64."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.double().eval().state_dict().items():
        if tensor.is_floating_point():
            values = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype) * 0.3
            tensor.copy_(values.abs() + 0.5 if "var" in name else values)
    return model


def transformers_model(name: str, seed: int = 0) -> Any:
    """Returns a model of transformers with random values."""
    config = CONFIGS[name]()
    config.architectures = [name]
    config._attn_implementation = config._experts_implementation = "eager"
    return randomized(getattr(transformers, name)(config), seed)


def inputs(model: Any) -> dict[str, Tensor]:
    """Returns inputs of a model of transformers, other than those that it is traced with."""
    generator = torch.Generator().manual_seed(1)
    if model.main_input_name == "pixel_values":
        size = getattr(model.config, "image_size", 32)
        return {"pixel_values": torch.randn(2, 3, size, size, generator=generator, dtype=torch.float64)}
    ids = torch.randint(3, 50, (2, 9), generator=generator)
    return {"input_ids": ids, **({"decoder_input_ids": ids[:, :6]} if model.config.is_encoder_decoder else {})}


class InFloat64(TorchDispatchMode):
    """Inside this block nothing is rounded to float32, as transformers' norms and attention do."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") == torch.float32:
            kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)


def output(model: nn.Module, inputs: Any) -> Tensor:
    """Returns what a model computes, as one vector."""
    with torch.no_grad(), InFloat64():
        result = outputs_of(model(**inputs) if isinstance(inputs, dict) else model(*inputs), INNER)
    return torch.cat([tensor.flatten() for tensor in result if tensor.is_floating_point()])
