"""Checkpoints in folders and single files; shards, written completely or not at all."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mergesearch.errors import UserError
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.checkpoint.config_sections import edit
from mergesearch.merge_ops.checkpoint.tensor_files import TensorInfo
from mergesearch.merge_ops.checkpoint.weight_files import INDEX, SINGLE
from mergesearch.merge_ops.output.result_config import with_dtype
from mergesearch.merge_ops.output.writer import Writer, written_checkpoint

from ..helpers import INPUTS, read, same_bytes, save, tensor

VALUES: dict[str, Tensor] = {
    "a.bool": torch.tensor([True, False, True]),
    "b.bf16": tensor((3, 5), 1, torch.bfloat16),
    "c.f32": tensor((7,), 2),
    "d.scalar": torch.tensor(2.5),
    "e.empty": torch.empty(0, 4, dtype=torch.float16),
    "f.int64": torch.tensor([[1 << 40], [-3]]),
    "g.f16": tensor((3, 3, 3), 3, torch.float16),
    "h.uint8": torch.arange(13, dtype=torch.uint8),
    "i.f64": tensor((2,), 4, torch.float64),
    "j.int32": torch.tensor([7, 8, 9], dtype=torch.int32),
}


def infos(values: dict[str, Tensor]) -> dict[str, TensorInfo]:
    return {name: TensorInfo(tuple(value.shape), value.dtype) for name, value in values.items()}


def write(writer: Writer, values: dict[str, Tensor]) -> None:
    for name, target in writer.tensors():
        target.copy_(values[name])


def sharded(folder: Path, values: dict[str, Tensor], shard_bytes: int) -> Path:
    folder.mkdir()
    write(Writer(folder, infos(values), shard_bytes), values)
    return folder


# Reading


def test_reads_a_folder_with_one_file() -> None:
    checkpoint = Checkpoint(str(INPUTS / "base"))
    assert checkpoint.tensors["model.norm.weight"] == TensorInfo((64,), torch.float32)
    assert list(checkpoint.tensors) == sorted(read(INPUTS / "base"))
    assert all(same_bytes(checkpoint.tensor(name), value) for name, value in read(INPUTS / "base").items())
    assert checkpoint.config["vocab_size"] == 128
    assert checkpoint.folder == INPUTS / "base"


def test_reads_shards_as_transformers_writes_them(tmp_path: Path) -> None:
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(INPUTS / "tied-base")
    model.save_pretrained(tmp_path / "out", max_shard_size="10KB")
    checkpoint = Checkpoint(str(tmp_path / "out"))
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 2
    whole = read(INPUTS / "tied-base")
    assert list(checkpoint.tensors) == sorted(whole)
    assert all(same_bytes(checkpoint.tensor(name), value) for name, value in whole.items())


def test_reads_a_bare_file_of_every_dtype(tmp_path: Path) -> None:
    checkpoint = Checkpoint(save(tmp_path / "x.safetensors", VALUES))
    assert checkpoint.tensors == infos(VALUES)
    assert all(same_bytes(checkpoint.tensor(name), value) for name, value in VALUES.items())
    assert checkpoint.folder is None
    with pytest.raises(UserError, match=r"x.safetensors: needs a config.json"):
        _ = checkpoint.config


def fail(reference: Path | str, *parts: str) -> None:
    """Checks that reading the checkpoint raises a UserError with all of these parts."""
    with pytest.raises(UserError) as caught:
        _ = Checkpoint(str(reference)).tensors
    for part in parts:
        assert part in str(caught.value)


def test_a_missing_path_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    fail(tmp_path / "mime", f"{tmp_path}/mime: there is no such checkpoint", "mine")
    fail(tmp_path / "no" / "mine", f"nor the folder {tmp_path}/no")


def test_a_name_that_the_hub_does_not_give(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("offline\nand more")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    fail("org/model", "org/model: there is no such folder, and the Hugging Face Hub gave an error: offline")


def test_a_name_on_the_hub_is_downloaded_to_its_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(INPUTS / "base"))
    checkpoint = Checkpoint("org/model")
    assert (checkpoint.reference, checkpoint.path) == ("org/model", INPUTS / "base")


def test_a_cache_that_has_all_but_the_card_serves_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def cached(*_: Any, allow_patterns: list[str], **__: Any) -> str:
        if "README.md" in allow_patterns:
            raise FileNotFoundError("the snapshot is incomplete")
        return str(INPUTS / "base")

    monkeypatch.setattr("huggingface_hub.snapshot_download", cached)
    assert Checkpoint("org/model").path == INPUTS / "base"


def test_a_folder_without_weights(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    fail(tmp_path, f"expected {SINGLE} or {INDEX}", "pytorch_model.bin")


@pytest.mark.parametrize("content", [b"", b"no", b"\xff" * 100, (50).to_bytes(8, "little") + b'{"a":'])
def test_a_corrupt_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / SINGLE).write_bytes(content)
    fail(tmp_path, SINGLE, "is not a readable safetensors file")


def test_a_truncated_file(tmp_path: Path) -> None:
    save(tmp_path / SINGLE, VALUES)
    whole = (tmp_path / SINGLE).read_bytes()
    (tmp_path / SINGLE).write_bytes(whole[:-1])
    fail(tmp_path, SINGLE, "is not a readable safetensors file")


def test_a_missing_shard(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "x", VALUES, 40)
    first = sorted(folder.glob("*.safetensors"))[0]
    first.unlink()
    fail(folder, "shards that do not exist", first.name)


@pytest.mark.parametrize("content", ["{}", '{"weight_map": 3}', '{"weight_map": {"a": 1}}'])
def test_a_corrupt_index(tmp_path: Path, content: str) -> None:
    (tmp_path / INDEX).write_text(content)
    fail(tmp_path, INDEX, "is not an index of shards")


def test_a_dtype_that_cannot_be_merged(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(2, dtype=torch.float8_e4m3fn)}, tmp_path / "x.safetensors")
    fail(tmp_path / "x.safetensors", "w has dtype F8_E4M3, expected one of F64, F32")


# Writing


@pytest.mark.parametrize("shard_bytes", [1, 40, 64, 10**9])
def test_writes_shards_of_a_size_that_safetensors_reads_back(tmp_path: Path, shard_bytes: int) -> None:
    folder = sharded(tmp_path / "x", VALUES, shard_bytes)
    files = sorted(folder.glob("*.safetensors"))
    back = read(folder)
    assert back.keys() == VALUES.keys()
    assert all(same_bytes(back[name], value) for name, value in VALUES.items())
    for file in files:
        with safe_open(file, framework="pt") as handle:
            names = list(handle.keys())
            assert handle.metadata() == {"format": "pt"}
        assert len(names) == 1 or sum(VALUES[name].nbytes for name in names) <= shard_bytes
    assert (folder / INDEX).exists() == (len(files) > 1) == (shard_bytes < 10**9)
    checkpoint = Checkpoint(str(folder))
    assert checkpoint.tensors == infos(VALUES)
    assert all(same_bytes(checkpoint.tensor(name), value) for name, value in VALUES.items())


@pytest.mark.parametrize(("limit", "counts"), [(120, [6]), (119, [5, 1]), (60, [3, 3]), (59, [2, 2, 2])])
def test_shards_are_filled_in_order(tmp_path: Path, limit: int, counts: list[int]) -> None:
    folder = sharded(tmp_path / "x", {f"t{i}": tensor((5,), i) for i in range(6)}, limit)
    files = [list(read_file) for read_file in map(load_file, sorted(folder.glob("*.safetensors")))]
    assert [len(names) for names in files] == counts
    assert [name for names in files for name in sorted(names)] == [f"t{i}" for i in range(6)]
    assert (folder / INDEX).exists() == (len(counts) > 1)


def test_the_index_says_where_each_tensor_is(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "x", VALUES, 40)
    index = json.loads((folder / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in VALUES.values())
    assert list(index["weight_map"]) == sorted(VALUES)
    for name, file in index["weight_map"].items():
        with safe_open(folder / file, framework="pt") as handle:
            assert name in handle.keys()  # noqa: SIM118
    count = len(set(index["weight_map"].values()))
    assert set(index["weight_map"].values()) == {f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)}


def test_every_tensor_starts_at_a_multiple_of_its_elements_size(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "x", VALUES, 10**9)
    content = (folder / SINGLE).read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    del header["__metadata__"]
    assert (8 + length) % 8 == 0
    ends = [0]
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        assert start % VALUES[name].element_size() == 0
        assert start == ends[-1]
        ends.append(end)
    assert len(content) == 8 + length + ends[-1]


def test_what_is_written_appears_at_once_and_whole(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with written_checkpoint(out, infos(VALUES)) as writer:
        write(writer, VALUES)
        assert not out.exists()
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert read(out).keys() == VALUES.keys()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_nothing_behind(tmp_path: Path, error: type[BaseException]) -> None:
    def fill() -> None:
        with written_checkpoint(tmp_path / "out", infos(VALUES)) as writer:
            next(writer.tensors())[1].fill_(1)
            raise error

    with pytest.raises(error):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_space_is_reserved_before_anything_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reserved: list[int] = []

    def full(_: int, offset: int, size: int) -> None:
        reserved.append(offset + size)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    values = {"w": torch.zeros(1000)}

    def fill() -> None:
        with written_checkpoint(tmp_path / "out", infos(values)) as writer:
            next(writer.tensors())

    with pytest.raises(OSError, match="No space left"):
        fill()
    assert 4000 < reserved[0] < 4200
    assert list(tmp_path.iterdir()) == []


def test_side_files_are_copied(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text('{"torch_dtype": "float32", "name": "Ünïcode"}')
    (source / "notes.txt").write_text("not for loading")
    (source / "pytorch_model.bin").write_text("not for loading")
    for name in ("tokenizer.model", "tokenizer_config.json", "chat_template.jinja", "merges.txt", "vocab.json"):
        (source / name).write_text(name)
    folder = tmp_path / "out"
    folder.mkdir()
    Writer(folder, {}).copy_side_files(source)
    copied = {path.name for path in folder.iterdir()}
    assert copied == {path.name for path in source.iterdir()} - {"notes.txt", "pytorch_model.bin"}
    assert (folder / "config.json").read_bytes() == (source / "config.json").read_bytes()
    edit(folder, lambda config: with_dtype(config, torch.bfloat16))
    assert json.loads((folder / "config.json").read_text()) == {"dtype": "bfloat16", "name": "Ünïcode"}
