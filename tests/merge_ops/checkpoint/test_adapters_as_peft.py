"""Adapters that PEFT trains and saves, merged here and by PEFT: the same tensors and the same outputs."""

import json
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers as t
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor

from mergesearch.errors import UserError
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.engine.engine import merge
from mergesearch.merge_ops.inputs.stored_tokens import stored_tokens
from mergesearch.merge_ops.inputs.tokenizer import load_tokenizer
from mergesearch.merge_ops.live.live import load
from mergesearch.merge_ops.recipe.recipe import Recipe

SMALL = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA = {**SMALL, "num_key_value_heads": 1, "max_position_embeddings": 32, "initializer_range": 0.2}
GPT2 = {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "initializer_range": 0.2}
CLIP = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**CLIP, "image_size": 16, "patch_size": 8}
T5 = {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
MIXTRAL = {**LLAMA, "num_local_experts": 3}
WHISPER = {
    "vocab_size": 40,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "num_mel_bins": 8,
    "max_source_positions": 16,
    "max_target_positions": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}
QWEN = {**LLAMA, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}


def llava() -> Any:
    config = t.LlavaConfig(
        vision_config=t.CLIPVisionConfig(**VISION),
        text_config=t.LlamaConfig(**LLAMA),
        image_token_index=39,
        vision_feature_layer=-1,
    )
    return t.LlavaForConditionalGeneration(config)


def gemma3() -> Any:
    config = t.Gemma3Config(
        vision_config=t.SiglipVisionConfig(**VISION),
        text_config=t.Gemma3TextConfig(**LLAMA, head_dim=8),
        mm_tokens_per_image=4,
        image_token_index=39,
    )
    return t.Gemma3ForConditionalGeneration(config)


def qwen2_vl() -> Any:
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2}
    return t.Qwen2VLForConditionalGeneration(t.Qwen2VLConfig(text_config=QWEN, vision_config=vision))


MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**LLAMA)),
    "tied llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**LLAMA, tie_word_embeddings=True)),
    "biased llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**LLAMA, attention_bias=True)),
    "gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config(**GPT2)),
    "untied gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config(**GPT2, tie_word_embeddings=False)),
    "mixtral": lambda: t.MixtralForCausalLM(t.MixtralConfig(**MIXTRAL)),
    "t5": lambda: t.T5ForConditionalGeneration(t.T5Config(**T5)),
    "gpt-oss": lambda: t.GptOssForCausalLM(t.GptOssConfig(**MIXTRAL, head_dim=8, num_experts_per_tok=2)),
    "whisper": lambda: t.WhisperForConditionalGeneration(t.WhisperConfig(**WHISPER)),
    "bert for masked words": lambda: t.BertForMaskedLM(t.BertConfig(**SMALL)),
    "bert": lambda: t.BertForSequenceClassification(t.BertConfig(**SMALL, num_labels=3)),
    "resnet": lambda: t.ResNetForImageClassification(
        t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3)
    ),
    "llava": llava,
    "gemma3": gemma3,
    "qwen2-vl": qwen2_vl,
}

IDS = torch.arange(1, 21)[None]
IMAGES = torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
INPUTS: dict[str, dict[str, Tensor]] = {
    "resnet": {"pixel_values": IMAGES},
    "t5": {"input_ids": IDS, "decoder_input_ids": IDS[:, :5]},
    "whisper": {"input_features": torch.linspace(-1, 1, 8 * 32).reshape(1, 8, 32), "decoder_input_ids": IDS[:, :5]},
}


@dataclass
class Form:
    """A form of adapters: the model, and PEFT's config."""

    model: str
    config: dict[str, Any]
    rows: int | None = None


def q(**config: Any) -> dict[str, Any]:
    return {"target_modules": ["q_proj"], **config}


FORMS: dict[str, Form] = {
    "one module": Form("llama", q()),
    "all linear modules": Form("llama", {"target_modules": "all-linear"}),
    "rank-stabilized": Form("llama", q(use_rslora=True)),
    "patterns": Form(
        "llama",
        {
            "target_modules": ["q_proj", "v_proj"],
            "rank_pattern": {"layers.1.self_attn.v_proj": 2, "q_proj": 3},
            "alpha_pattern": {r"^model\.layers\.0\.self_attn\.q_proj": 32, "v_proj": 3},
        },
    ),
    "some layers": Form("llama", q(layers_to_transform=[1])),
    "excluded modules": Form("llama", {"target_modules": ["q_proj", "v_proj"], "exclude_modules": r".*\.0\..*v_proj"}),
    "gaussian": Form("llama", q(init_lora_weights="gaussian")),
    "orthogonal": Form("llama", q(init_lora_weights="orthogonal")),
    "eva": Form("llama", q(init_lora_weights=True, eva_config=None)),
    "pissa": Form("llama", {"target_modules": ["q_proj", "down_proj", "embed_tokens"], "init_lora_weights": "pissa"}),
    "pissa, rank-stabilized": Form("llama", q(init_lora_weights="pissa", use_rslora=True)),
    "pissa of transposed layers": Form("gpt2", {"target_modules": ["c_attn", "c_proj"], "init_lora_weights": "pissa"}),
    "pissa with magnitudes": Form("llama", q(init_lora_weights="pissa", use_dora=True)),
    "olora": Form("llama", {"target_modules": ["q_proj", "up_proj"], "init_lora_weights": "olora"}),
    "dora": Form("llama", {"target_modules": ["q_proj", "down_proj"], "use_dora": True}),
    "dora of transposed layers": Form("gpt2", {"target_modules": ["c_attn"], "use_dora": True}),
    "dora of an embedding": Form("llama", {"target_modules": ["embed_tokens"], "use_dora": True}),
    "dora of both tied ends": Form("tied llama", {"target_modules": ["embed_tokens", "lm_head"], "use_dora": True}),
    "dora of kernels": Form("resnet", {"target_modules": ["convolution"], "use_dora": True}),
    "kernels": Form("resnet", {"target_modules": ["convolution"], "modules_to_save": ["classifier"]}),
    "biases of the factors": Form("biased llama", q(lora_bias=True)),
    "all biases": Form("biased llama", q(bias="all")),
    "biases of adapted modules": Form("biased llama", q(bias="lora_only")),
    "transposed layers": Form("gpt2", {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    "transposed and other layers": Form("untied gpt2", {"target_modules": ["c_attn", "c_proj", "lm_head", "wte"]}),
    "square transposed layers alone": Form("gpt2", {"target_modules": ["attn.c_proj"]}),
    "embeddings": Form("llama", {"target_modules": ["embed_tokens", "lm_head"]}),
    "the embedding of tied ends": Form("tied llama", {"target_modules": ["embed_tokens"]}),
    "the head of tied ends": Form("tied llama", {"target_modules": ["lm_head"]}),
    "both tied ends": Form("tied llama", {"target_modules": ["embed_tokens", "lm_head"]}),
    "both tied ends, kept tied": Form(
        "tied llama", {"target_modules": ["embed_tokens", "lm_head"], "ensure_weight_tying": True}
    ),
    "a saved embedding": Form("llama", q(modules_to_save=["embed_tokens"])),
    "a saved norm": Form("llama", q(modules_to_save=["norm"])),
    "a saved tied embedding": Form("tied llama", q(modules_to_save=["embed_tokens"])),
    "a saved tied embedding, kept tied": Form(
        "tied llama", q(modules_to_save=["embed_tokens"], ensure_weight_tying=True)
    ),
    "a saved tied head": Form("tied llama", q(modules_to_save=["lm_head"])),
    "both tied ends saved": Form("tied llama", q(modules_to_save=["embed_tokens", "lm_head"])),
    "a tied embedding and a saved head": Form(
        "tied llama", {"target_modules": ["embed_tokens"], "modules_to_save": ["lm_head"]}
    ),
    "a tied head of GPT-2 saved": Form("gpt2", {"target_modules": ["c_attn"], "modules_to_save": ["lm_head"]}),
    "rows of tokens": Form("llama", q(trainable_token_indices=[3, 7])),
    "rows of tied tokens": Form("tied llama", q(trainable_token_indices=[3, 7])),
    "rows of both ends": Form("llama", q(trainable_token_indices={"embed_tokens": [3, 7], "lm_head": [1]})),
    "rows of both tied ends": Form("tied llama", q(trainable_token_indices={"embed_tokens": [3], "lm_head": [1]})),
    "more tokens": Form("llama", q(), rows=44),
    "more tokens, tied": Form("tied llama", q(), rows=44),
    "fewer tokens, saved": Form("llama", q(modules_to_save=["embed_tokens", "lm_head"]), rows=36),
    "more tokens and an adapted embedding": Form("llama", {"target_modules": ["embed_tokens", "lm_head"]}, rows=44),
    "more tokens of a language model with eyes": Form("llava", q(modules_to_save=["embed_tokens", "lm_head"]), rows=44),
    "parameters of experts": Form("mixtral", {"target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}),
    "one parameter of experts": Form("mixtral", {"target_parameters": ["mlp.experts.down_proj"]}),
    "a weight as a parameter": Form("llama", {"target_modules": [], "target_parameters": ["q_proj.weight"]}),
    "attention beside experts": Form("mixtral", {"target_modules": ["q_proj", "v_proj"]}),
    "an encoder and a decoder": Form("t5", {"target_modules": ["q", "v", "wo"]}),
    "the shared embedding": Form("t5", {"target_modules": ["shared"]}),
    "a classifier": Form("bert", {"target_modules": ["query", "dense"], "task_type": "SEQ_CLS"}),
    "sound": Form("whisper", {"target_modules": ["q_proj", "conv1", "fc1"]}),
    "the head of sound": Form("whisper", {"target_modules": ["proj_out"]}),
    "a saved head of sound": Form("whisper", q(modules_to_save=["proj_out"])),
    "a tied decoder": Form("bert for masked words", {"target_modules": ["query", "decoder"]}),
    "a saved tied decoder": Form(
        "bert for masked words", {"target_modules": ["query"], "modules_to_save": ["decoder"]}
    ),
    "transposed parameters of experts": Form("gpt-oss", q(target_parameters=["gate_up_proj", "experts.down_proj"])),
    "LLaVA": Form("llava", {"target_modules": ["q_proj", "linear_1"]}),
    "Gemma 3": Form("gemma3", {"target_modules": ["q_proj", "down_proj"]}),
    "Qwen2-VL": Form("qwen2-vl", {"target_modules": ["q_proj", "qkv"]}),
}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    t.utils.logging.disable_progress_bar()
    before = t.utils.logging.get_verbosity()
    t.utils.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    t.utils.logging.set_verbosity(before)


def trained(form: Form, folder: Path) -> type[Any]:
    """Saves a base and an adapter with random values. Returns the base's class."""
    torch.manual_seed(0)
    MODELS[form.model]().eval().save_pretrained(folder / "base")
    model = base_of(type(MODELS[form.model]()), folder)
    if form.rows:
        model.resize_token_embeddings(form.rows, mean_resizing=False)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=8, **form.config))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    adapted.save_pretrained(folder / "adapter", save_embedding_layers=True if form.rows else "auto")
    return type(model)


def base_of(kind: Any, folder: Path, rows: int | None = None) -> Any:
    model = kind.from_pretrained(folder / "base").eval()
    if rows:
        model.resize_token_embeddings(rows, mean_resizing=False)
    return model


def merged_here(folder: Path) -> str:
    reference = f"{folder}/base+{folder}/adapter"
    merge(Recipe.read({"merge_method": "passthrough", "models": [{"model": reference}]}), folder / "out")
    return reference


@pytest.mark.parametrize("name", FORMS)
def test_merged_as_peft_merges(name: str, tmp_path: Path) -> None:
    form = FORMS[name]
    kind = trained(form, tmp_path)
    merged_here(tmp_path)
    by_peft = peft.PeftModel.from_pretrained(base_of(kind, tmp_path, form.rows), tmp_path / "adapter")
    expected = by_peft.merge_and_unload().eval()
    found, info = kind.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())
    given, wanted = found.state_dict(), expected.state_dict()
    assert given.keys() == wanted.keys()
    for key, value in wanted.items():
        torch.testing.assert_close(given[key], value, rtol=1e-5, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}")
    inputs = INPUTS.get(form.model, {"input_ids": IDS})
    with torch.no_grad():
        outputs = [model.eval()(**inputs).logits for model in (found, expected, base_of(kind, tmp_path))]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-4)
    assert form.rows or not torch.allclose(outputs[1], outputs[2], atol=1e-3)


@pytest.mark.parametrize(
    "name",
    ["square transposed layers alone", "both tied ends", "parameters of experts", "Gemma 3", "rows of tokens"],
)
def test_live_as_merged(name: str, tmp_path: Path) -> None:
    kind = trained(FORMS[name], tmp_path)
    model, _ = load(Checkpoint(merged_here(tmp_path)), "cpu")
    merged = kind.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(value, merged[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["a saved tied head", "more tokens, tied"])
def test_what_changes_the_model_is_merged_first(name: str, tmp_path: Path) -> None:
    trained(FORMS[name], tmp_path)
    with pytest.raises(UserError, match=r"the adapter changes the shape of the model, in .*; merge it first"):
        load(Checkpoint(merged_here(tmp_path)), "cpu")
    model, _ = load(Checkpoint(str(tmp_path / "out")), "cpu")
    assert len(model.get_input_embeddings().weight) == (FORMS[name].rows or SMALL["vocab_size"])


@pytest.mark.parametrize(
    ("name", "old"), [("LLaVA", "language_model.model."), ("Gemma 3", "language_model.model."), ("Qwen2-VL", "model.")]
)
def test_names_of_older_and_newer_versions(name: str, old: str, tmp_path: Path) -> None:
    """Adapters and files that are named as before transformers 4.52, and files that are named as in memory."""
    kind = trained(FORMS[name], tmp_path)
    merged_here(tmp_path)
    expected = kind.from_pretrained(tmp_path / "out").state_dict()
    weights, new = tmp_path / "adapter" / "adapter_model.safetensors", "model.language_model."
    renamed = {key.replace(f"model.{new}", f"model.{old}", 1): value for key, value in load_file(weights).items()}
    assert renamed.keys() != load_file(weights).keys()
    in_memory = base_of(kind, tmp_path).state_dict()
    for case in ("adapter", "base"):
        (tmp_path / "out").rename(tmp_path / f"before {case}")
        if case == "adapter":
            save_file(renamed, weights)
        else:
            named = {key: value.clone() for key, value in in_memory.items()}
            save_file(named, tmp_path / "base" / "model.safetensors", {"format": "pt"})
        merged_here(tmp_path)
        found = kind.from_pretrained(tmp_path / "out").state_dict()
        assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_experts_that_were_modules(tmp_path: Path) -> None:
    """Before transformers 5, each expert's matrix was a module of its own. PEFT fuses such adapters on loading."""
    kind = trained(Form("mixtral", q()), tmp_path)
    shapes = {"w1": (24, 16), "w2": (16, 24), "w3": (24, 16)}
    modules = {f"experts.{expert}.{name}": shape for expert in range(3) for name, shape in shapes.items()}
    parts = {}
    for layer, (name, (rows, columns)) in product(range(2), {**modules, "gate": (3, 16)}.items()):
        key = f"base_model.model.model.layers.{layer}.block_sparse_moe.{name}"
        parts[f"{key}.lora_A.weight"] = torch.randn(4, columns) / 4
        parts[f"{key}.lora_B.weight"] = torch.randn(rows, 4) / 4
    save_file(parts, tmp_path / "adapter" / "adapter_model.safetensors")
    config = tmp_path / "adapter" / "adapter_config.json"
    written = json.loads(config.read_text()) | {"target_modules": ["w1", "w2", "w3", "gate"]}
    config.write_text(json.dumps(written))
    merged_here(tmp_path)
    expected = peft.PeftModel.from_pretrained(base_of(kind, tmp_path), tmp_path / "adapter").merge_and_unload()
    found = kind.from_pretrained(tmp_path / "out").state_dict()
    for key, value in expected.state_dict().items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}")


OUTSIDE: dict[str, dict[str, Any]] = {
    "another name": {"target_modules": ["q_proj"]},
    "an expression": {"target_modules": r".*\.0\..*(q|v)_proj"},
    "excluded": {"exclude_modules": ["v_proj"]},
    "excluded by an expression": {"exclude_modules": r".*1\.self_attn\.v_proj"},
    "another layer": {"layers_to_transform": [0]},
    "another layer of a pattern": {"layers_to_transform": 1, "layers_pattern": "layers"},
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_factors_of_modules_that_are_no_targets(name: str, tmp_path: Path) -> None:
    kind = trained(Form("llama", {"target_modules": ["q_proj", "v_proj"]}), tmp_path)
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | OUTSIDE[name]))
    reference = merged_here(tmp_path)
    expected = peft.PeftModel.from_pretrained(base_of(kind, tmp_path), tmp_path / "adapter").merge_and_unload()
    found = kind.from_pretrained(tmp_path / "out").state_dict()
    for key, value in expected.state_dict().items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}")
    [warning] = Checkpoint(reference).warnings
    assert re.search(
        r"\d+ tensors of the adapter are for modules .*; they are ignored, as by PEFT: base_model", warning
    )


@pytest.mark.parametrize("same", [True, False])
def test_both_ends_stored(same: bool, tmp_path: Path) -> None:
    """A config says that they are tied. transformers ties them if they are equal."""
    kind = trained(FORMS["the embedding of tied ends"], tmp_path)
    weights = tmp_path / "base" / "model.safetensors"
    tensors = load_file(weights)
    embedding = tensors["model.embed_tokens.weight"]
    save_file(
        {**tensors, "lm_head.weight": embedding.clone() if same else embedding.flip(0)}, weights, {"format": "pt"}
    )
    adapter = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({key: value for key, value in load_file(adapter).items() if "base_layer" not in key}, adapter)
    merged_here(tmp_path)
    expected = peft.PeftModel.from_pretrained(base_of(kind, tmp_path), tmp_path / "adapter").merge_and_unload()
    found = kind.from_pretrained(tmp_path / "out").state_dict()
    assert torch.equal(found["lm_head.weight"], found["model.embed_tokens.weight"]) == same
    assert all(torch.equal(found[key], value) for key, value in expected.state_dict().items())


def test_an_added_head(tmp_path: Path) -> None:
    t.BertModel(t.BertConfig(**SMALL)).save_pretrained(tmp_path / "base")
    headed = t.BertForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=5)
    wrapped = peft.get_peft_model(headed, peft.LoraConfig(r=4, target_modules=["query"], task_type="SEQ_CLS"))
    wrapped.save_pretrained(tmp_path / "adapter")
    merged_here(tmp_path)
    found, info = t.BertForSequenceClassification.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())
    assert found.num_labels == 5
    assert found.config.architectures == ["BertForSequenceClassification"]
    expected = wrapped.merge_and_unload().state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in found.state_dict().items())


def tokenizer(*added: str) -> Any:
    words = {word: row for row, word in enumerate(["<unk>", *"abcdefg"])}
    made = t.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token="<unk>")), unk_token="<unk>")
    made.add_tokens(list(added))
    return made


@pytest.mark.parametrize("template", [None, "{{ messages[0]['content'] }}"])
def test_the_tokenizer_is_the_adapters(template: str | None, tmp_path: Path) -> None:
    trained(FORMS["more tokens"], tmp_path)
    old, new = tokenizer(), tokenizer("<call>")
    old.chat_template, new.chat_template = "old", template
    old.save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "vocab.txt").write_text("of another tokenizer")
    new.save_pretrained(tmp_path / "adapter")
    reference = merged_here(tmp_path)
    found = t.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert found.get_vocab() == new.get_vocab() == stored_tokens(Checkpoint(reference))
    assert found.chat_template == (template or "old")
    assert load_tokenizer(Checkpoint(reference)).get_vocab() == new.get_vocab()
    assert not (tmp_path / "out" / "vocab.txt").exists()
