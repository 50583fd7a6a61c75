"""Safetensors files that are none: what the library refuses is refused, what it reads is read alike."""

import os
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from mergesearch.errors import UserError
from mergesearch.merge_ops.checkpoint.tensor_files import TensorFile

from .command import ending, limited
from .headers import HEADERS

FILE = Path("x.safetensors")


def is_valid(file: Path) -> bool:
    """Whether the library can read the file."""
    try:
        with safe_open(str(file), framework="np"):
            return True
    except SafetensorError:
        return False


@pytest.mark.parametrize("name", HEADERS)
def test_header(name: str) -> None:
    FILE.write_bytes(HEADERS[name])
    with limited():
        if not is_valid(FILE):
            with pytest.raises(UserError, match=r"^x\.safetensors: is "):
                _ = TensorFile(FILE).tensors
            return
        file, expected = TensorFile(FILE), load_file(FILE)
        assert list(file.tensors) == sorted(expected)
        for key, value in expected.items():
            assert torch.equal(file.read(key), value)


def test_a_pipe_in_the_place_of_the_weights() -> None:
    Path("model").mkdir()
    os.mkfifo("model/model.safetensors")
    Path("x.yml").write_text("merge_method: linear\nmodels: [{model: model, parameters: {weight: 1}}]\n")
    result = ending("merge", "x.yml", "out")
    assert result.kind == "refused"
    assert "model/model.safetensors: is a pipe, expected a file" in result.text


def test_a_pointer_of_git_lfs() -> None:
    FILE.write_bytes(HEADERS["pointer of LFS"])
    with pytest.raises(UserError, match="run git lfs pull"):
        _ = TensorFile(FILE).tensors
