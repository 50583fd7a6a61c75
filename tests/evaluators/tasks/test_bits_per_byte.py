"""Bits per byte of files: lm-eval's number for the same texts, and messages for files that cannot be read."""

import json
from pathlib import Path
from typing import Any

import pytest

from mergesearch.errors import UserError
from mergesearch.evaluators import LoadedModel, Shared, aggregate
from mergesearch.evaluators.tasks.bits_per_byte import BitsPerByte, BitsPerByteOptions
from mergesearch.steps import metered, step, units

from ...tolerances import close, path_length


def opened(*files: object, **options: Any) -> BitsPerByte:
    return BitsPerByte(BitsPerByteOptions(task="texts", files=[str(file) for file in files], **options), Shared())


def test_equals_lm_eval(tasks: Path, printed: dict[str, Any], wide: LoadedModel, tmp_path: Path) -> None:
    pages = [json.loads(line)["page"] for line in (tasks / "toy_text.jsonl").read_text().splitlines()]
    for number, page in enumerate(pages):
        (tmp_path / f"{number}.txt").write_text(page, encoding="utf-8")
    evaluator = opened(tmp_path / "*.txt")
    value = aggregate(evaluator.items, evaluator.score(wide, evaluator.items))
    assert value == close(printed["toy_text"]["bits_per_byte,none"], path_length(wide.model, 128))


def test_shorter_windows_know_less(subject: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the cat sat on the mat and the dog ran " * 10)
    long, short = opened(tmp_path / "a.txt"), opened(tmp_path / "a.txt", max_length=4)
    assert long.score(subject, long.items)[0] != short.score(subject, short.items)[0]


def test_windows_longer_than_the_models_context(subject: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the cat")
    evaluator = opened(tmp_path / "a.txt", max_length=4096)
    with pytest.raises(UserError, match="max_length: 4096 is more than the model's context of 128 tokens"):
        evaluator.score(subject, evaluator.items)


def test_one_item_per_file_however_often_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("ä")
    (tmp_path / "b.txt").write_text("b")
    evaluator = opened(tmp_path / "b.txt", tmp_path / "*.txt")
    assert [(Path(item.id).name, item.weight) for item in evaluator.items] == [("a.txt", 2.0), ("b.txt", 1.0)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("other.txt", b"x", r"files: no file matches '.*a\.txt'"),
        ("a.txt", b"", r"files: .*a\.txt is empty"),
        ("a.txt", b"\xff\xfe", r"files: .*a\.txt is not UTF-8 text"),
    ],
)
def test_files_that_cannot_be_read(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        opened(tmp_path / "a.txt")


def test_says_how_far_it_is(subject: LoadedModel, tmp_path: Path) -> None:
    for number in range(9):
        (tmp_path / f"{number}.txt").write_text("the cat " * (number + 1))
    options = BitsPerByteOptions(task="texts", files=[str(tmp_path / "*.txt")])
    evaluator = BitsPerByte(options, Shared(batch_size=2))
    seen: list[float] = []
    with metered() as meter, step("scoring", 9, "items"), units(9):
        handle = subject.model.register_forward_hook(lambda *_: seen.append(meter.steps[-1].done))
        try:
            evaluator.score(subject, evaluator.items)
        finally:
            handle.remove()
        assert meter.steps[-1].done == 9
    assert seen == sorted(seen)
    assert seen[0] == 0
    assert len(set(seen)) > 3
