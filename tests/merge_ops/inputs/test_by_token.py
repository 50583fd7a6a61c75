"""Tensors that have an entry for each token and are no embeddings: no vocabulary is changed that they cannot follow."""

from pathlib import Path

import pytest
import torch
import transformers as t
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models

from mergesearch.errors import UserError
from mergesearch.merge_ops.engine.engine import merge
from mergesearch.merge_ops.recipe.recipe import Recipe

from ...tolerances import assert_close
from ..helpers import OPERATIONS

WORDS = ["<unk>", "<s>", "</s>", *"abcdefg"]
SIZES = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}
HEADS = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 16}


def saved(folder: Path, words: list[str], seed: int) -> str:
    """A model whose logits have a bias, with these words for rows."""
    torch.manual_seed(seed)
    config = t.BartConfig(vocab_size=len(words), **SIZES, **HEADS)
    t.BartForConditionalGeneration(config).save_pretrained(folder)
    file = folder / "model.safetensors"
    save_file({**load_file(file), "final_logits_bias": torch.rand(1, len(words))}, file, {"format": "pt"})
    rows = {word: row for row, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(rows, unk_token="<unk>"))
    t.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    return str(folder)


def merged(one: str, two: str, out: Path) -> dict[str, torch.Tensor]:
    entries = [{"model": model, "parameters": {"weight": 0.5}} for model in (one, two)]
    merge(Recipe.read({"merge_method": "linear", "models": entries, "tokenizer_source": "union"}), out)
    return load_file(out / "model.safetensors")


@pytest.mark.parametrize("words", [[*WORDS[:3], *WORDS[:2:-1]], [*WORDS, "h"]], ids=["other rows", "one more"])
def test_a_bias_of_logits_cannot_follow_its_tokens(words: list[str], tmp_path: Path) -> None:
    one, two = saved(tmp_path / "one", WORDS, 1), saved(tmp_path / "two", words, 2)
    with pytest.raises(UserError, match=r"one: final_logits_bias has an entry for each token, too"):
        merged(one, two, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_it_is_merged_where_tokens_keep_their_rows(tmp_path: Path) -> None:
    one, two = (saved(tmp_path / str(seed), WORDS, seed) for seed in (1, 2))
    found = merged(one, two, tmp_path / "out")["final_logits_bias"]
    wanted = sum(load_file(Path(folder) / "model.safetensors")["final_logits_bias"] for folder in (one, two))
    assert_close(found, torch.as_tensor(wanted / 2), OPERATIONS)
