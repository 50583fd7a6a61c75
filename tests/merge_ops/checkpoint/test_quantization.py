"""Quantized checkpoints are refused by name, whatever shows that they are, and nothing is written."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mergesearch.errors import UserError
from mergesearch.merge_ops.engine.engine import merge
from mergesearch.merge_ops.recipe.recipe import Recipe

LAYER = "model.layers.0.mlp.down_proj"
PLAIN = {f"{LAYER}.weight": torch.ones(4, 4), "model.norm.weight": torch.ones(4)}
WORDS, BYTES = torch.ones(2, 4, dtype=torch.int32), torch.ones(4, 4, dtype=torch.uint8)
FLOAT8 = torch.ones(4, 4).to(torch.float8_e4m3fn)


def checkpoint(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any] | None = None) -> str:
    folder.mkdir()
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def merged(tmp_path: Path, tensors: dict[str, Tensor], config: dict[str, Any] | None = None) -> Path:
    """The output of a merge of a plain base and the checkpoint."""
    base = checkpoint(tmp_path / "base", PLAIN)
    model = checkpoint(tmp_path / "model", tensors, config)
    models = [{"model": model, "parameters": {"weight": 0.5}}]
    merge(Recipe.read({"merge_method": "task_arithmetic", "base_model": base, "models": models}), tmp_path / "out")
    return tmp_path / "out"


TENSORS = {
    "gptq": {f"{LAYER}.qweight": WORDS, f"{LAYER}.qzeros": WORDS, f"{LAYER}.scales": torch.ones(4)},
    "bitsandbytes 4 bit": {f"{LAYER}.weight": BYTES, f"{LAYER}.weight.absmax": torch.ones(4)},
    "bitsandbytes 8 bit": {f"{LAYER}.weight": BYTES.to(torch.int8), f"{LAYER}.SCB": torch.ones(4)},
    "fp8 in blocks": {f"{LAYER}.weight": FLOAT8, f"{LAYER}.weight_scale_inv": torch.ones(1, 1)},
    "fp8 by dtype alone": {f"{LAYER}.weight": FLOAT8},
    "fp8 e5m2": {f"{LAYER}.weight": FLOAT8.to(torch.float8_e5m2)},
    "mxfp4": {f"{LAYER}_blocks": BYTES, f"{LAYER}_scales": BYTES},
    "compressed-tensors": {f"{LAYER}.weight_packed": WORDS, f"{LAYER}.weight_scale": torch.ones(4)},
    "aqlm": {f"{LAYER}.codes": WORDS, f"{LAYER}.codebooks": torch.ones(4)},
    "hqq": {f"{LAYER}.W_q": BYTES},
    "integers": {f"{LAYER}.weight": BYTES.to(torch.int8)},
    "unsigned integers": {f"{LAYER}.weight": WORDS.to(torch.uint32)},
}


@pytest.mark.parametrize("scheme", TENSORS)
def test_tensors_of_codes_are_refused_without_a_config(scheme: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"model: is quantized \({LAYER}\S* has dtype \w+\); expected float weights"):
        merged(tmp_path, {**PLAIN, **TENSORS[scheme]})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "awq"}, "awq"),
        ({"load_in_4bit": True}, "bitsandbytes"),
        ({"bits": 3}, "of an unknown method"),
    ],
)
@pytest.mark.parametrize("section", [None, "text_config"])
def test_the_config_names_the_scheme(content: dict[str, Any], name: str, section: str | None, tmp_path: Path) -> None:
    config = {"quantization_config": content}
    with pytest.raises(UserError, match=rf"quantization_config: {name}; its tensors are floats: if they are plain"):
        merged(tmp_path, PLAIN, {section: config} if section else config)


def test_four_bit_floats_are_named(tmp_path: Path) -> None:
    """No library writes F4 from torch: the header is made by hand."""
    header = {f"{LAYER}.weight": {"dtype": "F4", "shape": [4, 4], "data_offsets": [0, 8]}}
    text = json.dumps(header).encode()
    file = tmp_path / "packed.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(UserError, match=rf"is quantized \({LAYER}.weight has dtype F4\)"):
        merge(Recipe.read({"merge_method": "passthrough", "models": [{"model": str(file)}]}), tmp_path / "out")


@pytest.mark.parametrize("is_folder", [True, False])
def test_gguf_files_are_named(is_folder: bool, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.gguf").write_bytes(b"GGUF\x03\0\0\0")
    model = str(folder if is_folder else folder / "model.gguf")
    with pytest.raises(UserError, match=r"is quantized \(it is a GGUF file\)"):
        merge(Recipe.read({"merge_method": "passthrough", "models": [{"model": model}]}), tmp_path / "out")


def test_integer_buffers_are_plain(tmp_path: Path) -> None:
    buffers = {"embeddings.position_ids": torch.arange(4), "model.mask": torch.ones(2, dtype=torch.bool)}
    base = checkpoint(tmp_path / "base", {**PLAIN, **buffers})
    merge(Recipe.read({"merge_method": "passthrough", "models": [{"model": base}]}), tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_integers_in_place_of_floats(names: str, tmp_path: Path) -> None:
    """Whatever the tensor is called, and whichever of the models is the template."""
    for name, dtype in (("a", torch.float32), ("b", torch.int32)):
        save_file({"w": torch.ones(3, dtype=dtype)}, tmp_path / f"{name}.safetensors")
    models = [{"model": str(tmp_path / f"{n}.safetensors"), "parameters": {"weight": 0.5}} for n in names]
    with pytest.raises(UserError, match=r"w: found float32 in .*a\.safetensors, int32 in .*b\.safetensors; expected"):
        merge(Recipe.read({"merge_method": "linear", "models": models}), tmp_path / "out")
    assert not (tmp_path / "out").exists()
