"""Llama checkpoints with random weights: a base and its fine-tunes."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SIZES = {
    "551M": LlamaConfig(hidden_size=1536, intermediate_size=4096, num_hidden_layers=16, vocab_size=32000),
    "125M": LlamaConfig(hidden_size=768, intermediate_size=2048, num_hidden_layers=12, vocab_size=26000),
    "small": LlamaConfig(hidden_size=256, intermediate_size=688, num_hidden_layers=4, vocab_size=4000),
}
FINE_TUNE_STD = 1e-3
"""The standard deviation of the differences between a fine-tune and the base, whose weights have one of 0.02."""

TEXT, WORDS = "calibration.txt", 1000
"""The name of a text that ``add_text`` writes, and how many different words it has."""


def make_checkpoints(folder: Path, size: str, fine_tunes: int, dtype: torch.dtype) -> list[str]:
    """Writes a base and ``fine_tunes`` fine-tunes. Returns their paths, the base first."""
    config = SIZES[size]
    config.num_attention_heads = config.num_key_value_heads = config.hidden_size // 64
    config.head_dim = 64
    config.dtype = dtype
    config.architectures = ["LlamaForCausalLM"]
    torch.manual_seed(0)
    base = {name: tensor.detach() for name, tensor in LlamaForCausalLM(config).float().state_dict().items()}
    prefix = str(dtype).removeprefix("torch.")
    names = ["base", *(f"ft{index}" for index in range(1, fine_tunes + 1))]
    return [str(_save(folder / f"{prefix}-{name}", base, seed, config)) for seed, name in enumerate(names)]


def _save(path: Path, base: dict[str, torch.Tensor], seed: int, config: LlamaConfig) -> Path:
    """Writes the base where ``seed`` is 0, else a fine-tune."""
    generator = torch.Generator().manual_seed(seed)
    std = FINE_TUNE_STD if seed else 0.0
    path.mkdir(parents=True)
    tensors = {n: (t + std * torch.randn(t.shape, generator=generator)).to(config.dtype) for n, t in base.items()}
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(path)
    return path


def add_text(folder: Path, paths: list[str], tokens: int) -> None:
    """Writes a text of random words to ``folder``, and a tokenizer of these words to each of ``paths``."""
    words = {f"w{number}": number for number in range(WORDS)}
    model = Tokenizer(WordLevel(words, unk_token="w0"))
    model.pre_tokenizer = Whitespace()
    for path in paths:
        PreTrainedTokenizerFast(tokenizer_object=model).save_pretrained(path)
    drawn = torch.randint(WORDS, (tokens,), generator=torch.Generator().manual_seed(0)).tolist()
    (folder / TEXT).write_text(" ".join(f"w{number}" for number in drawn))
