"""What is written on a thread, copied by the system, and found out on the way."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from mergesearch.errors import UserError
from mergesearch.merge_ops.checkpoint.tensor_files import StoredBytes, TensorInfo
from mergesearch.merge_ops.engine.engine import merge
from mergesearch.merge_ops.output.write_behind import PAGE, checksum, copy_bytes
from mergesearch.merge_ops.output.writer import written_checkpoint
from mergesearch.merge_ops.recipe.recipe import Recipe

from ..helpers import read, same_bytes, save, tensor


def random_bytes(count: int) -> torch.Tensor:
    return torch.randint(256, (count,), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("count", [1, PAGE, 3 * PAGE + 5])
def test_the_checksum_tells_every_changed_byte_and_pages_in_another_place(count: int) -> None:
    data = random_bytes(count)
    before = checksum(data)
    for place in {0, count // 2, count - 1}:
        changed = data.clone()
        changed[place] ^= 1
        assert checksum(changed) != before
    if count > 2 * PAGE:
        assert checksum(torch.cat([data[PAGE : 2 * PAGE], data[:PAGE], data[2 * PAGE :]])) != before


def refuses(*_: Any) -> int:
    raise OSError(errno.EXDEV, "Invalid cross-device link")


@pytest.mark.parametrize("by_system", [True, False])
@pytest.mark.parametrize(("start", "offset"), [(0, 0), (7, 7 + PAGE), (7, 100), (PAGE - 1, 0)])
def test_bytes_are_copied_from_place_to_place(
    by_system: bool, start: int, offset: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not by_system:
        monkeypatch.setattr(os, "copy_file_range", refuses, raising=False)
    content, count = random_bytes(5 * PAGE).numpy().tobytes(), 3 * PAGE + 11
    source = tmp_path / "source"
    source.write_bytes(content)
    with (tmp_path / "target").open("wb") as file:
        copy_bytes(StoredBytes(source, start, count), file.fileno(), offset)
    assert (tmp_path / "target").read_bytes()[offset:] == content[start : start + count]


@pytest.mark.parametrize("by_system", [True, False])
def test_a_source_that_ends_early_is_an_error(by_system: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not by_system:
        monkeypatch.setattr(os, "copy_file_range", refuses, raising=False)
    source = tmp_path / "source"
    source.write_bytes(bytes(10))
    with (tmp_path / "target").open("wb") as file, pytest.raises(UserError, match="truncated: 5 bytes"):
        copy_bytes(StoredBytes(source, 0, 15), file.fileno(), 0)


def test_a_disk_that_is_full_while_tensors_wait_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.pwrite

    def full(file: int, data: memoryview, offset: int) -> int:
        if offset < 1000:
            return write(file, data[:1], offset)  # short writes are continued
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    infos = {f"t{i}": TensorInfo((200,), torch.float32) for i in range(4)}

    def fill() -> None:
        with written_checkpoint(tmp_path / "out", infos) as writer:
            for _, target in writer.tensors():
                target.fill_(1)

    with pytest.raises(OSError, match="No space left") as caught:
        fill()
    assert caught.value.filename == str(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_memory_that_changes_while_it_is_written_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mergesearch.merge_ops.output import write_behind

    def faulty(_: int, data: memoryview, __: int) -> None:
        data[3] ^= 1

    monkeypatch.setattr(write_behind, "write_all", faulty)

    def fill() -> None:
        with written_checkpoint(tmp_path / "out", {"t": TensorInfo((200,), torch.float32)}) as writer:
            for _, target in writer.tensors():
                target.fill_(1)

    with pytest.raises(UserError, match="changed in memory"):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_slices_are_copied_without_being_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {f"layers.{i}.w": tensor((2000,), i) for i in range(4)}
    model = save(tmp_path / "model", values)
    slices = [{"sources": [{"model": model, "layer_range": span}]} for span in ([0, 3], [2, 4])]
    written: list[int] = []
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda *args: written.append(len(args[1])) or write(*args))
    merge(Recipe.read({"merge_method": "passthrough", "slices": slices}), tmp_path / "out")
    sources = [0, 1, 2, 2, 3]
    assert all(same_bytes(read(tmp_path / "out")[f"layers.{i}.w"], values[f"layers.{sources[i]}.w"]) for i in range(5))
    if hasattr(os, "copy_file_range"):
        assert sum(written) < 2000
