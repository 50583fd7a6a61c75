"""Runs over a model that is quantized: they are those over the model that it is dequantized to."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mergesearch.errors import UserError
from mergesearch.merge_ops.engine.engine import merge
from mergesearch.merge_ops.recipe.recipe import Recipe

from .helpers import go, study_of


def fp8(source: Path, folder: Path) -> str:
    """The model with fp8 weights, each in one block."""
    shutil.copytree(source, folder)
    stored = load_file(folder / "model.safetensors")
    for name in [name for name in stored if "_proj" in name]:
        scale = stored[name].abs().amax() / 448
        stored[name] = (stored[name] / scale).to(torch.float8_e4m3fn)
        stored[f"{name}_scale_inv"] = scale.reshape(1, 1)
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def values(folder: Path) -> list[Any]:
    return [trial.value for trial in study_of(folder).trials]


def test_a_search(config: dict[str, Any], models: Path, tmp_path: Path) -> None:
    quantized = fp8(models / "two", tmp_path / "quantized" / "two")
    passed = {"merge_method": "passthrough", "models": [{"model": quantized}], "dequantize": True}
    merge(Recipe.read(passed), tmp_path / "plain" / "two")
    config["search"]["trials"] = 9
    for number, (folder, dequantize) in enumerate([("quantized", True), ("plain", False), ("quantized", True)]):
        config["recipe"]["models"][1]["model"] = str(tmp_path / folder / "two")
        config["recipe"]["dequantize"] = dequantize
        go(config, tmp_path / folder)  # the last one goes on with the first, whose models are the same
        assert number or (tmp_path / folder / "small" / "model" / "model.safetensors").exists()
    assert values(tmp_path / "quantized" / "small") == values(tmp_path / "plain" / "small")


@pytest.mark.parametrize("dequantize", [True, False])
def test_a_soup(dequantize: bool, config: dict[str, Any], models: Path, tmp_path: Path) -> None:
    quantized = fp8(models / "two", tmp_path / "two")
    del config["recipe"], config["search"]
    config["soup"] = {"models": [str(models / "one"), quantized], "kinds": ["uniform"], "dequantize": dequantize}
    if dequantize:
        assert go(config, tmp_path / "runs").trials
    else:
        with pytest.raises(UserError, match=r"two: is quantized .* or say `dequantize: true`"):
            go(config, tmp_path / "runs")
