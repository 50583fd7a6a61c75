"""Models that compute otherwise are told apart, however their configs are written, and others are not."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mergesearch.errors import UserError
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.engine.engine import merge
from mergesearch.merge_ops.engine.options import MergeOptions
from mergesearch.merge_ops.inputs.model_config import check_configs, config_differences
from mergesearch.merge_ops.recipe.recipe import Recipe

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def checkpoint(folder: Path, config: dict[str, Any]) -> Checkpoint:
    folder.mkdir(parents=True)
    save_file({"w": torch.ones(2)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return Checkpoint(str(folder))


def differing(tmp_path: Path, one: dict[str, Any], two: dict[str, Any]) -> list[str]:
    found = config_differences(checkpoint(tmp_path / "one", one), checkpoint(tmp_path / "two", two))
    return sorted(found)


@pytest.mark.parametrize(
    "more",
    [
        {"rope_theta": 10000.0},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        {"rope_scaling": None, "sliding_window": None},
        {"num_key_value_heads": 4, "head_dim": 4, "hidden_act": "silu", "rms_norm_eps": 1e-6},
        {"_name_or_path": "x", "transformers_version": "4.1.0", "torch_dtype": "bfloat16", "use_cache": False},
        {"attention_dropout": 0.1, "initializer_range": 0.5, "eos_token_id": 7, "pad_token_id": 0},
        {"tie_word_embeddings": True, "vocab_size": 33},
        {"id2label": {"0": "a"}, "max_length": 50, "do_sample": True, "unsloth_version": "2025.1"},
    ],
)
def test_the_same_written_otherwise(more: dict[str, Any], tmp_path: Path) -> None:
    assert differing(tmp_path, LLAMA, {**LLAMA, **more}) == []


@pytest.mark.parametrize(
    ("kind", "more", "keys"),
    [
        ("llama", {"rope_theta": 5e5}, ["rope_parameters"]),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, ["rope_parameters"]),
        ("llama", {"num_key_value_heads": 2}, ["num_key_value_heads"]),
        ("llama", {"num_attention_heads": 2}, ["head_dim", "num_attention_heads", "num_key_value_heads"]),
        ("llama", {"hidden_act": "gelu"}, ["hidden_act"]),
        ("llama", {"rms_norm_eps": 1e-5}, ["rms_norm_eps"]),
        ("llama", {"max_position_embeddings": 99}, ["max_position_embeddings"]),
        ("llama", {"a_key_of_tomorrow": 3}, ["a_key_of_tomorrow"]),
        ("mistral", {"sliding_window": 7}, ["sliding_window"]),
        ("gemma2", {"attn_logit_softcapping": None}, ["attn_logit_softcapping"]),
        ("gemma2", {"query_pre_attn_scalar": 99}, ["query_pre_attn_scalar"]),
        ("phi", {"partial_rotary_factor": 0.25}, ["rope_parameters"]),
        ("granite", {"embedding_multiplier": 12.0}, ["embedding_multiplier"]),
        ("granite", {"attention_multiplier": 0.1}, ["attention_multiplier"]),
        ("bert", {"problem_type": "multi_label_classification"}, ["problem_type"]),
        ("bert", {"position_embedding_type": "relative_key"}, ["position_embedding_type"]),
        ("mixtral", {"num_experts_per_tok": 1}, ["num_experts_per_tok"]),
        ("gpt2", {"scale_attn_weights": False}, ["scale_attn_weights"]),
        ("qwen2", {"use_sliding_window": True}, ["use_sliding_window"]),
    ],
)
def test_what_computes_otherwise(kind: str, more: dict[str, Any], keys: list[str], tmp_path: Path) -> None:
    """Also the other way round: a key that is left out counts as its default."""
    config = {"model_type": kind, "num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 4}
    found = differing(tmp_path / "a", config, {**config, **more})
    assert {*found} >= {*keys}
    assert found == differing(tmp_path / "b", {**config, **more}, config)


def test_sections_and_unknown_types(tmp_path: Path) -> None:
    text = {"model_type": "llama", "hidden_size": 16, "num_attention_heads": 4}
    llava = {"model_type": "llava", "text_config": text}
    more = {**llava, "text_config": {**text, "rope_theta": 5e5}}
    assert differing(tmp_path / "a", llava, more) == ["text_config.rope_parameters"]
    assert differing(tmp_path / "b", llava, text) == []
    assert differing(tmp_path / "c", {"model_type": "mine", "x": 1}, {"model_type": "mine", "x": 2}) == ["x"]
    assert differing(tmp_path / "d", {"x": 1}, {"x": 1, "y": None}) == []


def checked(tmp_path: Path, more: dict[str, Any], lenient: bool = False, same_depth: bool = True) -> list[str]:
    one, two = checkpoint(tmp_path / "one", LLAMA), checkpoint(tmp_path / "two", {**LLAMA, **more})
    return check_configs(one, [two], lenient, same_depth)


def test_a_warning_names_both_values(tmp_path: Path) -> None:
    (warning,) = checked(tmp_path, {"rms_norm_eps": 1e-5})
    assert "two: config.json differs from that of" in warning
    assert "in rms_norm_eps (1e-05, not 1e-06)" in warning


@pytest.mark.parametrize("more", [{"num_key_value_heads": 2}, {"hidden_act": "gelu"}, {"model_type": "mistral"}])
def test_models_of_another_kind_are_refused(more: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"two: config\.json: .* {next(iter(more))} \(.*on_config_mismatch: warn"):
        checked(tmp_path, more)


def test_models_of_another_kind_are_merged_where_the_recipe_says_so(tmp_path: Path) -> None:
    (warning,) = checked(tmp_path, {"hidden_act": "gelu"}, lenient=True)
    assert 'hidden_act ("gelu", not "silu")' in warning


def test_stacks_may_have_other_depths(tmp_path: Path) -> None:
    assert checked(tmp_path, {"num_hidden_layers": 7}, same_depth=False) == []


def test_a_merge_warns_or_is_refused(tmp_path: Path) -> None:
    def merged(config: dict[str, Any], name: str, **more: str) -> list[str]:
        one, two = checkpoint(tmp_path / name / "one", LLAMA), checkpoint(tmp_path / name / "two", {**LLAMA, **config})
        models = [{"model": m.reference, "parameters": {"weight": 0.5}} for m in (one, two)]
        said: list[str] = []
        recipe = Recipe.read({"merge_method": "linear", "models": models, **more})
        merge(recipe, tmp_path / name / "out", options=MergeOptions(warn=said.append))
        return said

    assert merged({"rope_theta": 1e4}, "same") == []
    assert "rope_parameters" in merged({"rope_theta": 5e5}, "rope")[0]
    with pytest.raises(UserError, match="num_attention_heads"):
        merged({"num_attention_heads": 2}, "heads")
    assert not (tmp_path / "heads" / "out").exists()
    assert "num_attention_heads" in merged({"num_attention_heads": 2}, "lenient", on_config_mismatch="warn")[0]
