"""Stacks whose layers are of several kinds: written where transformers reads all of them, else refused."""

from pathlib import Path

import pytest
import torch
import transformers as t

from mergesearch.errors import UserError
from mergesearch.merge_ops.engine.engine import merge
from mergesearch.merge_ops.recipe.recipe import Recipe

SIZES = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 32}
EXPERTS = {"moe_intermediate_size": 12, "shared_expert_intermediate_size": 12, "num_experts": 3}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Each second layer has experts, by a rule in the config."""
    folder = tmp_path_factory.mktemp("model")
    config = t.Qwen2MoeConfig(**SIZES, **HEADS, **EXPERTS, num_experts_per_tok=2, decoder_sparse_step=2)
    t.Qwen2MoeForCausalLM(config).save_pretrained(folder)
    return str(folder)


def stacked(model: str, *ranges: tuple[int, int], out: Path) -> Path:
    slices = [{"sources": [{"model": model, "layer_range": [*layers]}]} for layers in ranges]
    merge(Recipe.read({"merge_method": "passthrough", "slices": slices}), out)
    return out


def test_layers_where_the_model_has_their_kind(model: str, tmp_path: Path) -> None:
    out = stacked(model, (0, 2), (0, 2), out=tmp_path / "out")
    found, info = t.Qwen2MoeForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(info.values())
    before = t.Qwen2MoeForCausalLM.from_pretrained(model).state_dict()
    for name, value in found.state_dict().items():
        for new, old in (("2", "0"), ("3", "1")):
            name = name.replace(f"layers.{new}.", f"layers.{old}.")  # noqa: PLW2901
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("last", [(1, 2), (0, 1)])
def test_layers_where_the_model_has_another_kind(model: str, last: tuple[int, int], tmp_path: Path) -> None:
    ranges = [(0, 2), last] if last == (1, 2) else [last, (0, 2)]
    with pytest.raises(UserError, match=r"slices: by the config of .*other kinds .*: model\.layers\.\d\.mlp\."):
        stacked(model, *ranges, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_number_of_layers_that_is_not_in_the_config(tmp_path: Path) -> None:
    """Under a name that is not known here."""
    sizes = {"vocab_size": 40, "hidden_size": 16, "embedding_dim": 16, "num_heads": 2}
    t.xLSTMForCausalLM(t.xLSTMConfig(**sizes, num_blocks=2)).save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match=r"slices: by the config of .*would not read"):
        stacked(str(tmp_path / "model"), (0, 2), (1, 2), out=tmp_path / "out")
