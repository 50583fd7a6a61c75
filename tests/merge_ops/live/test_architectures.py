"""Models of many architectures: merged, loaded again, compared with a plain sum."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from mergesearch.errors import UserError
from mergesearch.merge_ops.engine.engine import Engine, merge
from mergesearch.merge_ops.engine.options import MergeOptions
from mergesearch.merge_ops.recipe.recipe import Recipe

from ...tolerances import assert_close
from ..helpers import OPERATIONS, read, same_bytes, save, tensor

t = transformers
SMALL = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
TOWER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
WHISPER = {
    "vocab_size": 32,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "num_mel_bins": 8,
    "max_source_positions": 16,
    "max_target_positions": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}
MODELS: dict[str, Callable[[], Any]] = {
    "bert": lambda: t.BertModel(t.BertConfig(**SMALL)),
    "bert with a head": lambda: t.BertForSequenceClassification(t.BertConfig(**SMALL, num_labels=3)),
    "bert for masked words": lambda: t.BertForMaskedLM(t.BertConfig(**SMALL)),
    "t5": lambda: t.T5ForConditionalGeneration(
        t.T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_decoder_layers=1, num_heads=2)
    ),
    "clip": lambda: t.CLIPModel(
        t.CLIPConfig(
            text_config={**TOWER, "vocab_size": 32, "max_position_embeddings": 16},
            vision_config={**TOWER, "image_size": 16, "patch_size": 8},
            projection_dim=8,
        )
    ),
    "whisper": lambda: t.WhisperForConditionalGeneration(t.WhisperConfig(**WHISPER)),
    "mixtral": lambda: t.MixtralForCausalLM(
        t.MixtralConfig(**SMALL, num_key_value_heads=1, head_dim=8, num_local_experts=3)
    ),
    "gpt-j": lambda: t.GPTJForCausalLM(
        t.GPTJConfig(vocab_size=32, n_embd=16, n_layer=2, n_head=2, n_positions=16, rotary_dim=4, n_inner=24)
    ),
    "vit": lambda: t.ViTForImageClassification(t.ViTConfig(**TOWER, image_size=16, patch_size=8, num_labels=3)),
}


@pytest.fixture(autouse=True)
def _no_progress_bars() -> None:
    transformers.utils.logging.disable_progress_bar()


def saved(folder: Path, name: str, seed: int) -> str:
    torch.manual_seed(seed)
    MODELS[name]().save_pretrained(folder)
    return str(folder)


def task_arithmetic(base: str, models: list[str], **more: Any) -> Recipe:
    entries = [{"model": model, "parameters": {"weight": 0.25 * (i + 1)}} for i, model in enumerate(models)]
    return Recipe.read({"merge_method": "task_arithmetic", "base_model": base, "models": entries, **more})


def naive(base: str, models: list[str]) -> dict[str, Tensor]:
    tensors, others = read(Path(base)), [read(Path(model)) for model in models]
    return {
        name: base_tensor + sum(0.25 * (i + 1) * (other[name] - base_tensor) for i, other in enumerate(others))
        for name, base_tensor in tensors.items()
    }


@pytest.mark.parametrize("name", MODELS)
def test_merged_and_loaded_back(name: str, tmp_path: Path) -> None:
    base, *models = [saved(tmp_path / str(seed), name, seed) for seed in range(3)]
    merge(task_arithmetic(base, models), tmp_path / "out")
    written, expected = read(tmp_path / "out"), naive(base, models)
    assert written.keys() == expected.keys()
    for key, value in expected.items():
        assert_close(written[key], value, OPERATIONS)
    kind = type(MODELS[name]())
    loaded, info = kind.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())
    loaded.save_pretrained(tmp_path / "again")
    again = read(tmp_path / "again")
    assert all(same_bytes(again[key], value) for key, value in written.items())


@pytest.mark.parametrize("name", MODELS)
def test_built_live_as_it_is_written(name: str, tmp_path: Path) -> None:
    base, *models = [saved(tmp_path / str(seed), name, seed) for seed in range(3)]
    engine = Engine([base, *models], base)
    one = task_arithmetic(base, models)
    engine.build(one)
    merge(one, tmp_path / "out")
    written = read(tmp_path / "out")
    assert all(same_bytes(value, written[key]) for key, value in engine.views.items())


# A diffusion model, which transformers does not have


def unet(seed: int, channels: int = 4) -> dict[str, Tensor]:
    return {
        "conv_in.weight": tensor((8, channels, 3, 3), seed),
        "down_blocks.0.attentions.0.proj_in.weight": tensor((8, 8), seed + 1),
        "down_blocks.1.resnets.0.conv1.weight": tensor((8, 8, 3, 3), seed + 2),
        "mid_block.resnets.1.norm1.bias": tensor((8,), seed + 3),
        "betas": torch.arange(4) + seed,
    }


def test_a_bare_state_dict(tmp_path: Path) -> None:
    base, one, two = (save(tmp_path / f"{seed}.safetensors", unet(seed)) for seed in (1, 10, 20))
    said: list[str] = []
    merge(task_arithmetic(base, [one, two]), tmp_path / "out", options=MergeOptions(warn=said.append))
    assert ["1 tensor of integers, which are not merged and differ between the models" in line for line in said] == [
        True
    ]
    assert said[0].endswith(f"{base}: betas")
    written, first = read(tmp_path / "out"), unet(1)
    assert same_bytes(written["betas"], first["betas"])
    for key in first.keys() - {"betas"}:
        expected = first[key] + 0.25 * (unet(10)[key] - first[key]) + 0.5 * (unet(20)[key] - first[key])
        assert_close(written[key], expected, OPERATIONS)


# Checkpoints that do not match


def inpainting(tmp_path: Path) -> list[str]:
    return [
        save(tmp_path / "inpaint.safetensors", unet(1, 9)),
        save(tmp_path / "one.safetensors", unet(10)),
        save(tmp_path / "two.safetensors", unet(20)),
    ]


def test_what_differs_is_listed(tmp_path: Path) -> None:
    base, one, two = inpainting(tmp_path)
    with pytest.raises(UserError) as caught:
        merge(task_arithmetic(base, [one, two]), tmp_path / "out")
    text = str(caught.value)
    assert f"conv_in.weight ([8, 9, 3, 3] in {base}; [8, 4, 3, 3] in {one}, {two})" in text
    assert "on_mismatch: base" in text
    assert not (tmp_path / "out").exists()


def test_extra_channels_survive(tmp_path: Path) -> None:
    base, one, two = inpainting(tmp_path)
    merge(task_arithmetic(base, [one, two], on_mismatch="overlap"), tmp_path / "out")
    key, written = "conv_in.weight", read(tmp_path / "out")
    first, second, third = unet(1, 9)[key], unet(10)[key], unet(20)[key]
    corner = first[:, :4]
    assert torch.equal(written[key][:, 4:], first[:, 4:])
    expected = corner + 0.25 * (second - corner) + 0.5 * (third - corner)
    assert_close(written[key][:, :4], expected, OPERATIONS)
    assert not torch.equal(written["mid_block.resnets.1.norm1.bias"], unet(1)["mid_block.resnets.1.norm1.bias"])


def test_the_bases_tensor_unmerged(tmp_path: Path) -> None:
    base, one, two = inpainting(tmp_path)
    merge(task_arithmetic(base, [one, two], on_mismatch="base"), tmp_path / "out")
    written = read(tmp_path / "out")
    assert torch.equal(written["conv_in.weight"], unet(1, 9)["conv_in.weight"])
    assert not torch.equal(written["mid_block.resnets.1.norm1.bias"], unet(1)["mid_block.resnets.1.norm1.bias"])


@pytest.mark.parametrize("wish", ["base", "overlap"])
def test_a_base_that_is_not_averaged_gives_what_the_models_lack(wish: str, tmp_path: Path) -> None:
    _, one, two = inpainting(tmp_path)
    more = save(tmp_path / "more.safetensors", {**unet(1, 9), "head.weight": tensor((2, 2), 3)})
    entries = [{"model": model, "parameters": {"weight": 0.5}} for model in (one, two)]
    recipe = {"merge_method": "linear", "base_model": more, "models": entries, "on_mismatch": wish}
    merge(Recipe.read(recipe), tmp_path / "out")
    written, key = read(tmp_path / "out"), "conv_in.weight"
    assert torch.equal(written["head.weight"], tensor((2, 2), 3))
    mean = {name: (unet(10)[name] + unet(20)[name]) / 2 for name in (key, "mid_block.resnets.1.norm1.bias")}
    assert_close(written["mid_block.resnets.1.norm1.bias"], mean["mid_block.resnets.1.norm1.bias"], OPERATIONS)
    assert torch.equal(written[key][:, 4:], unet(1, 9)[key][:, 4:])
    assert_close(written[key][:, :4], unet(1, 9)[key][:, :4] if wish == "base" else mean[key], OPERATIONS)


@pytest.mark.parametrize("headed", [0, 1], ids=["the base has the head", "a model has the head"])
def test_a_file_without_the_prefix_and_the_head(headed: int, tmp_path: Path) -> None:
    kinds = ["bert", "bert"]
    kinds[headed] = "bert with a head"
    base, model = (saved(tmp_path / str(i), kind, i) for i, kind in enumerate(kinds))
    with pytest.raises(UserError, match=r"classifier\.bias \((missing|\[3\]|only) in "):
        merge(task_arithmetic(base, [model]), tmp_path / "out")
    merge(task_arithmetic(base, [model], on_mismatch="base"), tmp_path / "out")
    written, first, second = read(tmp_path / "out"), read(Path(base)), read(Path(model))
    engine = Engine([base, model], base)
    engine.build(task_arithmetic(base, [model], on_mismatch="base"))
    assert all(same_bytes(view, written[name]) for name, view in engine.views.items())
    assert written.keys() == first.keys()
    headless = (second, first)[headed]
    assert any(not name.startswith("bert.") for name in headless)
    for name, value in first.items():
        other = second.get(name, second.get(f"bert.{name}", second.get(name.removeprefix("bert."))))
        expected = value if other is None else value + 0.25 * (other - value)
        assert_close(written[name], expected, OPERATIONS)


def test_buffers_that_models_compute_may_be_missing(tmp_path: Path) -> None:
    old = {"layers.0.rotary_emb.inv_freq": tensor((4,), 9), "w": tensor((4,), 1)}
    one, two = save(tmp_path / "one", old), save(tmp_path / "two", {"w": tensor((4,), 2)})
    merge(task_arithmetic(one, [two]), tmp_path / "out")
    assert set(read(tmp_path / "out")) == set(old)
    assert same_bytes(read(tmp_path / "out")["layers.0.rotary_emb.inv_freq"], old["layers.0.rotary_emb.inv_freq"])
    merge(task_arithmetic(two, [one]), tmp_path / "reverse")
    assert set(read(tmp_path / "reverse")) == {"w"}
