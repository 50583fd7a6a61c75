"""Random Llama checkpoints of a given size: a base and its fine-tunes."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

SIZES = {
    "125M": LlamaConfig(hidden_size=768, intermediate_size=2048, num_hidden_layers=12, vocab_size=26000),
    "small": LlamaConfig(hidden_size=256, intermediate_size=688, num_hidden_layers=4, vocab_size=4000),
}
SPREAD = 1e-3
"""Of the fine-tunes' differences to the base, whose weights spread by 0.02."""


def make_checkpoints(folder: Path, size: str, tuned: int, dtype: torch.dtype) -> list[str]:
    """Writes the base and ``tuned`` fine-tunes; their paths."""
    config = SIZES[size]
    config.num_attention_heads = config.num_key_value_heads = config.hidden_size // 64
    config.head_dim = 64
    config.dtype = dtype
    config.architectures = ["LlamaForCausalLM"]
    torch.manual_seed(0)
    base = {name: tensor.detach() for name, tensor in LlamaForCausalLM(config).float().state_dict().items()}
    return [str(_save(folder / f"{_name(dtype)}-{_role(i)}", base, i, config)) for i in range(tuned + 1)]


def _save(path: Path, base: dict[str, torch.Tensor], index: int, config: LlamaConfig) -> Path:
    seed = torch.Generator().manual_seed(index)
    spread = SPREAD if index else 0.0
    path.mkdir(parents=True)
    tensors = {n: (t + spread * torch.randn(t.shape, generator=seed)).to(config.dtype) for n, t in base.items()}
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(path)
    return path


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _role(index: int) -> str:
    return f"ft{index}" if index else "base"


def references(paths: Sequence[str], count: int) -> tuple[str, list[str]]:
    """The base, and so many of the fine-tunes."""
    return paths[0], list(paths[1 : count + 1])
