"""What transformers makes of stored names, compared with models that it loads."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t
from safetensors.torch import save_file

from mergesearch.merge_ops.checkpoint.architecture import Architecture, architecture
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint

SMALL = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
GPT2 = {"vocab_size": 32, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16}


@pytest.fixture(autouse=True)
def _no_progress_bars() -> None:
    t.utils.logging.disable_progress_bar()


def saved(folder: Path, model: Any) -> Checkpoint:
    model.save_pretrained(folder)
    return Checkpoint(str(folder))


def known(checkpoint: Checkpoint) -> Architecture:
    found = architecture(checkpoint)
    assert found is not None
    return found


def loaded_names(folder: Path, checkpoint: Checkpoint) -> dict[str, str]:
    """Each stored name's parameter in the model that transformers loads, found by a value that no other tensor has."""
    marked = {name: torch.full(info.shape, float(i + 1)) for i, (name, info) in enumerate(checkpoint.tensors.items())}
    folder.mkdir()
    save_file(marked, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(checkpoint.config))
    model = getattr(t, checkpoint.config["architectures"][0]).from_pretrained(folder)
    values = {float(value.detach().flatten()[0]): name for name, value in model.named_parameters()}
    return {name: values[float(value.flatten()[0])] for name, value in marked.items()}


MODELS: dict[str, Any] = {
    "bert": lambda: t.BertModel(t.BertConfig(**SMALL)),
    "gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config(**GPT2)),
    "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**SMALL)),
    "qwen2-vl": lambda: t.Qwen2VLForConditionalGeneration(
        t.Qwen2VLConfig(
            text_config={
                **SMALL,
                "num_key_value_heads": 1,
                "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
            },
            vision_config={"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2},
        )
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_stored_names_are_the_parameters_that_transformers_loads_them_to(name: str, tmp_path: Path) -> None:
    checkpoint = saved(tmp_path / "x", MODELS[name]())
    live = known(checkpoint).live_names(checkpoint.tensors)
    assert {own: entry.name for own, entry in live.items()} == loaded_names(tmp_path / "marked", checkpoint)
    assert all(entry.loaded for entry in live.values())


def test_older_names_and_other_prefixes(tmp_path: Path) -> None:
    gpt2 = known(saved(tmp_path / "gpt2", MODELS["gpt2"]()))
    assert gpt2.live_names(["wte.weight"])["wte.weight"].name == "transformer.wte.weight"
    bert = known(saved(tmp_path / "bert", MODELS["bert"]()))
    old = "bert.embeddings.LayerNorm.gamma"
    assert bert.live_names([old])[old].name == "embeddings.LayerNorm.weight"
    vision = known(saved(tmp_path / "qwen", MODELS["qwen2-vl"]()))
    for stored in ("model.embed_tokens.weight", "model.language_model.embed_tokens.weight"):
        assert vision.live_names([stored])[stored].name == "model.language_model.embed_tokens.weight"


def test_what_transformers_drops(tmp_path: Path) -> None:
    gpt2 = known(saved(tmp_path / "x", MODELS["gpt2"]()))
    names = ["h.0.attn.bias", "h.0.attn.masked_bias", "h.0.ln_1.weight", "transformer.h.0.ln_1.weight"]
    dropped = [name for name, live in gpt2.live_names(names).items() if not live.loaded]
    assert dropped == ["h.0.attn.bias", "h.0.attn.masked_bias", "transformer.h.0.ln_1.weight"]


def test_fused_experts_keep_names_of_their_own(tmp_path: Path) -> None:
    config = t.MixtralConfig(**SMALL, num_key_value_heads=1, num_local_experts=3)
    checkpoint = saved(tmp_path / "x", t.MixtralForCausalLM(config))
    found = known(checkpoint)
    live = found.live_names(checkpoint.tensors)
    assert len({entry.name for entry in live.values()}) == len(checkpoint.tensors)
    assert all(entry.loaded for entry in live.values())
    bare = "layers.0.block_sparse_moe.experts.2.w1.weight"
    assert found.live_names([bare])[bare] == live[f"model.{bare}"]
    assert found.shapes["model.layers.0.mlp.experts.down_proj"] == (3, 16, 24)


def test_ties_are_those_of_the_config(tmp_path: Path) -> None:
    t5 = {"vocab_size": 32, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
    found = known(saved(tmp_path / "t5", t.T5ForConditionalGeneration(t.T5Config(**t5))))
    names = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
    assert found.tied == [names]
    tied = saved(tmp_path / "tied", t.LlamaForCausalLM(t.LlamaConfig(**SMALL, tie_word_embeddings=True)))
    assert known(tied).tied == [("model.embed_tokens.weight", "lm_head.weight")]
    assert known(tied).embeddings == {"model.embed_tokens.weight", "lm_head.weight"}
    assert known(saved(tmp_path / "llama", MODELS["llama"]())).tied == []


def test_modules_and_what_may_be_missing(tmp_path: Path) -> None:
    bert = known(saved(tmp_path / "bert", MODELS["bert"]()))
    assert bert.may_be_missing("pooler.dense.weight")
    assert not bert.may_be_missing("encoder.layer.0.output.dense.weight")
    headed = t.BertForSequenceClassification(t.BertConfig(**SMALL))
    assert not known(saved(tmp_path / "headed", headed)).may_be_missing("bert.pooler.dense.weight")
    gpt2 = known(saved(tmp_path / "gpt2", MODELS["gpt2"]()))
    assert type(gpt2.module_of("transformer.h.0.attn.c_attn.weight")).__name__ == "Conv1D"
    assert isinstance(gpt2.module_of("transformer.wte.weight"), torch.nn.Embedding)
    assert gpt2.module_of("transformer.no.such.weight") is None


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model_type": "llama", "architectures": ["NoSuchModel"]},
        {"model_type": "no-such-model"},
        {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": "many"},
        {"auto_map": {"AutoConfig": "configuration.Mine", "AutoModel": "modeling.Mine"}, "model_type": "mine"},
    ],
)
def test_unknown_architectures(config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "configuration.py").write_text("raise SystemExit('ran')")
    assert architecture(Checkpoint(str(tmp_path))) is None


def test_infinite_numbers_in_a_config(tmp_path: Path) -> None:
    sizes = {"vocab_size": 32, "hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    config = t.NemotronHConfig(**sizes, layers_block_type=["mamba"], mamba_num_heads=2, mamba_head_dim=8, n_groups=1)
    assert "__float__" in config.to_json_string()
    (tmp_path / "config.json").write_text(
        json.dumps({**json.loads(config.to_json_string()), "architectures": ["NemotronHForCausalLM"]})
    )
    assert known(Checkpoint(str(tmp_path))).embeddings == {"lm_head.weight", "model.embeddings.weight"}


def test_without_a_config_or_transformers(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(2)}, tmp_path / "x.safetensors")
    assert architecture(Checkpoint(str(tmp_path / "x.safetensors"))) is None
    plain = Architecture(torch.nn.Linear(2, 3))
    assert {name: (live.name, live.loaded) for name, live in plain.live_names(["weight", "x"]).items()} == {
        "weight": ("weight", True),
        "x": ("x", False),
    }


def test_embeddings_of_single_tokens_have_no_row_for_each() -> None:
    model = t.LlamaForCausalLM(t.LlamaConfig(**SMALL))
    embedding = model.get_input_embeddings()
    embedding.one_token = torch.nn.Parameter(torch.zeros(SMALL["hidden_size"]))
    assert Architecture(model).embeddings == {"model.embed_tokens.weight", "lm_head.weight"}
