"""Quantized checkpoints are merged as the models that transformers dequantizes them to."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mergesearch.errors import UserError
from mergesearch.merge_ops.engine.engine import Engine, merge
from mergesearch.merge_ops.recipe.recipe import Recipe

BLOCK = 128


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64, hidden_size=BLOCK, intermediate_size=2 * BLOCK, num_hidden_layers=1, num_attention_heads=2
    )
    folder = tmp_path_factory.mktemp("plain")
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
    return folder


def fp8(source: Path, folder: Path) -> tuple[str, dict[str, Tensor]]:
    """A model with fp8 weights in blocks of 128 by 128, and the weights that these codes mean."""
    folder.mkdir()
    stored, meant = dict[str, Tensor](), dict[str, Tensor]()
    for name, weight in load_file(source / "model.safetensors").items():
        stored[name] = meant[name] = weight
        if "_proj" in name:
            rows, columns = (size // BLOCK for size in weight.shape)
            blocks = weight.float().reshape(rows, BLOCK, columns, BLOCK)
            scale = blocks.abs().amax((1, 3)) / 448
            codes = (blocks / scale[:, None, :, None]).to(torch.float8_e4m3fn)
            stored[name], stored[f"{name}_scale_inv"] = codes.reshape(weight.shape), scale.contiguous()
            meant[name] = (codes.float() * scale[:, None, :, None]).reshape(weight.shape)
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK]}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder), meant


def recipe(models: list[str], **more: Any) -> Recipe:
    entries = [{"model": model, "parameters": {"weight": 0.5}} for model in models]
    return Recipe.read({"merge_method": "linear", "models": entries, **more})


def assert_close(found: Tensor, expected: Tensor) -> None:
    """To two roundings to bfloat16."""
    assert torch.allclose(found.float(), expected.float(), rtol=2**-7, atol=0)


def test_fp8(plain: Path, tmp_path: Path) -> None:
    model, meant = fp8(plain, tmp_path / "model")
    merge(recipe([model], dequantize=True), tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found.keys() == meant.keys()
    for name, tensor in found.items():
        assert tensor.dtype == torch.bfloat16
        assert_close(tensor, meant[name])
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
    with pytest.raises(
        UserError, match=r"is quantized \(config\.json: quantization_config: fp8; .* or say `dequantize: "
    ):
        merge(recipe([model]), tmp_path / "again")


def test_in_a_live_model_with_a_plain_one(plain: Path, tmp_path: Path) -> None:
    model, meant = fp8(plain, tmp_path / "model")
    models = [str(plain), model]
    engine = Engine(models, models[0], dequantize=True)
    built = engine.build(recipe(models, dequantize=True))
    name = "model.layers.0.mlp.up_proj.weight"
    other = load_file(plain / "model.safetensors")[name].float()
    assert_close(built.state_dict()[name], (other + meant[name]) / 2)
    engine.save(tmp_path / "out")
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")[name], built.state_dict()[name])


FP4 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
"""The numbers that four bits mean, by the OCP specification of microscaling formats."""


def mxfp4(source: Path, folder: Path) -> tuple[str, dict[str, Tensor]]:
    """A model of which each expert has a byte for two numbers and a scale for 32, and the weights that they mean."""
    folder.mkdir()
    dice = torch.Generator().manual_seed(1)
    stored, meant = dict[str, Tensor](), dict[str, Tensor]()
    for name, weight in load_file(source / "model.safetensors").items():
        meant[name] = weight
        if name.endswith(("gate_up_proj", "down_proj")):
            experts, inputs, outputs = weight.shape
            blocks = torch.randint(256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8, generator=dice)
            scales = torch.randint(118, 124, (experts, outputs, inputs // 32), dtype=torch.uint8, generator=dice)
            stored |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
            numbers = torch.stack([FP4[(blocks & 15).long()], FP4[(blocks >> 4).long()]], -1).flatten(-2)
            rows = numbers * 2.0 ** (scales[..., None].float() - 127)
            meant[name] = rows.reshape(experts, outputs, inputs).transpose(1, 2)
        else:
            stored[name] = weight
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder), meant


def test_mxfp4(tmp_path: Path) -> None:
    from transformers import GptOssConfig, GptOssForCausalLM

    sizes = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 1, "head_dim": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 2, "num_experts_per_tok": 1}
    GptOssForCausalLM(GptOssConfig(**sizes, **heads)).bfloat16().save_pretrained(tmp_path / "plain")
    model, meant = mxfp4(tmp_path / "plain", tmp_path / "model")
    merge(recipe([str(tmp_path / "plain"), model], dequantize=True), tmp_path / "out")
    found, other = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "plain"))
    assert found.keys() == meant.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor.float(), (other[name].float() + meant[name].float()) / 2, rtol=2**-7, atol=0)


def test_scales_that_transformers_does_not_read(plain: Path, tmp_path: Path) -> None:
    """Codes without their scales would be taken for weights."""
    model, _ = fp8(plain, tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    renamed = {name.replace("weight_scale_inv", "input_scale"): tensor for name, tensor in load_file(file).items()}
    save_file(renamed, file, {"format": "pt"})
    with pytest.raises(UserError, match="dequantize: true: transformers cannot dequantize fp8 here: "):
        merge(recipe([model], dequantize=True), tmp_path / "out")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bits", [4, 8])
def test_bitsandbytes(bits: int, plain: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)
    quantized = AutoModelForCausalLM.from_pretrained(plain, quantization_config=config, device_map={"": "cpu"})
    quantized.save_pretrained(tmp_path / "model")
    merge(recipe([str(tmp_path / "model")], dequantize=True), tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model", device_map={"": "cpu"})
    expected = again.dequantize().state_dict()
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    assert found.keys() == expected.keys()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "transformers cannot dequantize gptq here: "),
        ({"quant_method": "modelopt"}, "cannot dequantize modelopt here: ValueError: it knows no method of this name"),
        (None, "has no quantization_config, which tells how"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_dequantized(content: Any, reason: str, plain: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"model.layers.0.mlp.up_proj.qweight": torch.ones(2, 2, dtype=torch.int32)}, folder / "model.safetensors")
    config = json.loads((plain / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **({"quantization_config": content} if content else {})}))
    with pytest.raises(UserError, match=f"dequantize: true: .*{reason}"):
        merge(recipe([str(folder)], dequantize=True), tmp_path / "out")
    assert not (tmp_path / "out").exists()
