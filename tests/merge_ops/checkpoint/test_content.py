"""What a checkpoint consists of, by content: the files of its adapter count too."""

import json
from pathlib import Path

import torch
import transformers as t
from safetensors.torch import save_file

from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.checkpoint.content import CheckpointContent

SIZES = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}


def test_the_tokenizer_of_an_adapter_is_part_of_the_content(tmp_path: Path) -> None:
    t.LlamaForCausalLM(t.LlamaConfig(**SIZES, num_attention_heads=2)).save_pretrained(tmp_path / "base")
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}))
    query = "base_model.model.model.layers.0.self_attn.q_proj"
    factors = {f"{query}.lora_A.weight": torch.ones(4, 16), f"{query}.lora_B.weight": torch.ones(16, 4)}
    save_file(factors, folder / "adapter_model.safetensors")
    (folder / "tokenizer.json").write_text("{}")
    before = CheckpointContent.of(Checkpoint(f"{tmp_path}/base+{folder}"))
    (folder / "tokenizer.json").write_text("{ }")
    after = CheckpointContent.of(Checkpoint(f"{tmp_path}/base+{folder}"), before)
    assert after.tensors == before.tensors
    assert {name for name in after.files if after.files[name] != before.files[name]} == {"adapter/tokenizer.json"}
