"""Models that are the same tensor by tensor are named, and only those."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from mergesearch.merge_ops.assembly.merger import Merger
from mergesearch.merge_ops.inputs.equal_models import equal_model_warnings

from ..helpers import INPUTS


def warnings_of(*folders: Path) -> list[str]:
    return equal_model_warnings(list(Merger([str(folder) for folder in folders]).inputs.values()))


def test_a_copy_is_named_once_and_others_are_not(tmp_path: Path) -> None:
    for name in ("again", "third"):
        shutil.copytree(INPUTS / "ft1", tmp_path / name)
    found = warnings_of(INPUTS / "base", INPUTS / "ft1", INPUTS / "ft2", tmp_path / "again", tmp_path / "third")
    starts = [f"{INPUTS / 'ft1'} and {tmp_path / name} are the same tensor by tensor" for name in ("again", "third")]
    assert [line.partition(";")[0] for line in found] == starts


def test_one_number_makes_another_model(tmp_path: Path) -> None:
    folder = tmp_path / "near"
    shutil.copytree(INPUTS / "ft1", folder)
    (file,) = folder.glob("*.safetensors")
    tensors = load_file(file)
    name = max(tensors)
    tensors[name].view(-1)[0] += torch.finfo(tensors[name].dtype).eps * tensors[name].view(-1)[0].abs() + 1e-6
    save_file(tensors, file, {"format": "pt"})
    assert not warnings_of(INPUTS / "ft1", folder)
