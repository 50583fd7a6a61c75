"""Configs of results with another vocabulary: sizes and token ids, wherever the config has them."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

from mergesearch.merge_ops.engine.engine import merge
from mergesearch.merge_ops.inputs.result_vocabulary import _renumbering, with_size, with_token_ids
from mergesearch.merge_ops.inputs.vocabulary import Vocabulary
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.merge_ops.recipe.vocabulary_config import TokenizerConfig

from ..helpers import INPUTS, read

ROWS = {"vocabA": 60, "vocabB": 62}
TEXT = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
VISION = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 4}


def llava(rows: int) -> Any:
    text = transformers.LlamaConfig(**TEXT, vocab_size=rows, bos_token_id=1, eos_token_id=2)
    vision = transformers.CLIPVisionConfig(**VISION, patch_size=2, projection_dim=8)
    return transformers.LlavaForConditionalGeneration(
        transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=5)
    )


def gemma3(rows: int) -> Any:
    text = transformers.Gemma3TextConfig(**TEXT, vocab_size=rows, head_dim=8, bos_token_id=1, eos_token_id=2)
    vision = transformers.SiglipVisionConfig(**VISION, patch_size=2)
    config = transformers.Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=1, image_token_index=5
    )
    return transformers.Gemma3ForConditionalGeneration(config)


def encoder_decoder(rows: int) -> Any:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    parts = [transformers.BertConfig(**sizes, vocab_size=rows, max_position_embeddings=8) for _ in range(2)]
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(*parts)
    config.decoder_start_token_id, config.pad_token_id = 1, 0
    return transformers.EncoderDecoderModel(config)


def t5(rows: int) -> Any:
    sizes = {"d_model": 8, "d_ff": 8, "d_kv": 4, "num_layers": 1, "num_heads": 2}
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, vocab_size=rows))


@pytest.mark.filterwarnings("ignore")  # of transformers' own, about its classes
@pytest.mark.parametrize("source", ["union", "base"])
@pytest.mark.parametrize("make", [llava, gemma3, encoder_decoder, t5])
def test_models_of_several_parts_load_with_the_new_size(make: Any, source: str, tmp_path: Path) -> None:
    for name, rows in ROWS.items():
        with torch.random.fork_rng():
            torch.manual_seed(rows)
            make(rows).save_pretrained(tmp_path / name)
        for file in (INPUTS / name).glob("tokenizer*"):
            shutil.copy(file, tmp_path / name)
    base = "vocabA" if source == "union" else "vocabB"
    models = [{"model": str(tmp_path / name), "parameters": {"weight": 0.5}} for name in ROWS]
    data = {"merge_method": "linear", "base_model": str(tmp_path / base), "models": models, "tokenizer_source": source}
    merge(Recipe.read(data), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    kind = getattr(transformers, config["architectures"][0])
    model, info = kind.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values()), info
    assert model.get_input_embeddings().weight.shape[0] == 62
    assert {config[key] for key in config if key == "vocab_size"} <= {62}
    written = read(tmp_path / "out")
    assert {value.shape[0] for value in written.values() if value.shape[0] in (60, 62)} == {62}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"vocab_size": 60}, {"vocab_size": 64}),
        ({"vocab_size": 60, "vocab_size_of_phones": 60}, {"vocab_size": 64, "vocab_size_of_phones": 60}),
        ({"text_config": {"vocab_size": 60}}, {"text_config": {"vocab_size": 64}}),
        (
            {"text_config": {"vocab_size": 60}, "audio_config": {"vocab_size": 9}},
            {"text_config": {"vocab_size": 64}, "audio_config": {"vocab_size": 9}},
        ),
        (
            {"vocab_size": 60, "thinker_config": {"text_config": {"vocab_size": 60}}},
            {"vocab_size": 64, "thinker_config": {"text_config": {"vocab_size": 64}}},
        ),
        ({"text_config": {"model_type": "x"}}, {"text_config": {"model_type": "x", "vocab_size": 64}}),
        ({"vision_config": {"vocab_size": 9}}, {"vision_config": {"vocab_size": 9}, "vocab_size": 64}),
        (
            {"encoder": {"model_type": "bert", "vocab_size": 60}, "decoder": {"model_type": "gpt2", "vocab_size": 50}},
            {"encoder": {"model_type": "bert", "vocab_size": 64}, "decoder": {"model_type": "gpt2", "vocab_size": 50}},
        ),
        ({}, {"vocab_size": 64}),
    ],
    ids=str,
)
def test_sizes(config: dict[str, Any], expected: dict[str, Any]) -> None:
    assert with_size(config, {60}, 64) == expected


def test_token_ids_follow_their_tokens() -> None:
    old = {"<pad>": 3, "<s>": 1, "</s>": 2, "<image>": 4, "<x>": 5}
    new = {"</s>": 0, "<s>": 1, "<unk>": 2, "<image>": 3}
    tokenizer = SimpleNamespace(pad_token_id=0, eos_token_id=0)
    vocabulary = Vocabulary(TokenizerConfig(), tokenizer, new, {}, {"base": old}, frozenset())
    config = {
        "bos_token_id": 1,
        "eos_token_id": [2, 5],
        "pad_token_id": 3,
        "sep_token_id": 5,
        "forced_bos_token_id": None,
        "decoder_start_token_id": -1,
        "begin_suppress_tokens": [4, 5],
        "text_config": {"image_token_index": 4, "pad_token_id": 9, "hidden_size": 4},
        "is_token_id": True,
    }
    assert with_token_ids(config, _renumbering(vocabulary, "base")) == {
        "bos_token_id": 1,
        "eos_token_id": [0, 0],
        "pad_token_id": 0,
        "sep_token_id": None,
        "forced_bos_token_id": None,
        "decoder_start_token_id": -1,
        "begin_suppress_tokens": [3],
        "text_config": {"image_token_index": 3, "pad_token_id": 0, "hidden_size": 4},
        "is_token_id": True,
    }
