"""A run is about what its config names, not about the names: what was replaced between two sessions is found."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mergesearch.errors import UserError
from mergesearch.search.problem.identity import FILE

from ..helpers import Data, course, go, killed

JUDGE = """
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

def judge(model, tokenizer, items):
    from scale import SCALE

    norm = SCALE * float(sum(p.abs().sum() for p in model.parameters()))
    return {item: norm * (1 + int(item)) for item in items}

judge.items = {str(n): f"the content of item number {n}" for n in range(8)}
"""
PROGRAM = """
import json, sys
from pathlib import Path
import sizes
size = sum(Path(sys.argv[1], "model.safetensors").read_bytes()[-400:])
print(json.dumps({name: size / (1 + int(name)) for name in Path(sys.argv[2]).read_text().split()}))
"""


@pytest.fixture
def own(config: Data, models: Path, tmp_path: Path) -> Data:
    """The config, with models and code that may be changed."""
    shutil.copytree(models, tmp_path / "models")
    (tmp_path / "judge.py").write_text(JUDGE)
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "scale.py").write_text("from more.far import SCALE\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "far.py").write_text("SCALE = 1\n")
    (tmp_path / "sizes.py").write_text("SIZE = 1\n")
    data: Data = json.loads(json.dumps(config).replace(str(models), str(tmp_path / "models")))
    program = ["python", str(tmp_path / "program.py"), "{model}", "{items}"]
    data["evaluate"]["tasks"] += [
        {"evaluator": "function", "task": "judge", "function": f"{tmp_path}/judge.py:judge"},
        {"evaluator": "command", "task": "program", "command": program, "items": [str(n) for n in range(8)]},
    ]
    data["search"]["trials"] = 9
    return data


def change_tensor(folder: Path) -> None:
    file = folder / "models" / "two" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"] = tensors["model.norm.weight"] + 1
    save_file(tensors, file, {"format": "pt"})


def append(name: str, text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / name
        file.write_text(file.read_text() + text)

    return change


def change_tensor_and_keep_the_time(folder: Path) -> None:
    file = folder / "models" / "two" / "model.safetensors"
    before = file.stat()
    change_tensor(folder)
    assert file.stat().st_size == before.st_size
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES = {
    "a tensor, in a file of the same size and time": (change_tensor_and_keep_the_time, "two: 1 of .* tensors changed"),
    "a tensor": (change_tensor, r"two: 1 of \d+ tensors changed; the first, model.norm.weight, has another content"),
    "the tokenizer": (append("models/base/tokenizer.json", " "), "base: 1 of .* files changed; the first, tokenizer.j"),
    "the config of a model": (append("models/one/config.json", "\n"), "one: 1 of 4 files .* config.json, has another"),
    "an item": (append("texts/03.txt", "more"), r"'text': 2 of 12 items changed; the first, .*03.txt, has another"),
    "one more item": (lambda folder: (folder / "texts/zz.txt").write_text("new one"), "'text': .* the first, .* "),
    "a function": (append("judge.py", "# other\n"), r"judge.py \(task 'judge'\) has another content"),
    "what a function imports": (append("scale.py", "# other\n"), r"scale.py \(task 'judge'\) has another content"),
    "what that imports": (append("more/far.py", "# other\n"), r"far.py \(task 'judge'\) has another content"),
    "what a program imports": (append("sizes.py", "# other\n"), r"sizes.py \(task 'program'\) has another content"),
    "a program": (append("program.py", "# other\n"), r"program.py \(task 'program'\) has another content"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_was_replaced_between_two_sessions_is_named(own: Data, tmp_path: Path, what: str) -> None:
    own["search"]["trials"] = 1
    go(own, tmp_path / "runs")
    before = course(tmp_path / "runs" / "small")
    change, found = CHANGES[what]
    change(tmp_path)
    own["search"]["trials"] = 2
    with pytest.raises(UserError, match=f"small: was begun with other content: .*{found}.*--name"):
        go(own, tmp_path / "runs")
    assert course(tmp_path / "runs" / "small") == before


def test_what_only_looks_new_is_the_same(own: Data, tmp_path: Path) -> None:
    """Files that are copied, touched or written anew have other times, and the tensors are read once more."""
    go(own, tmp_path / "runs")
    recorded = json.loads((tmp_path / "runs" / "small" / FILE).read_text())
    file = tmp_path / "models" / "two" / "model.safetensors"
    save_file(dict(reversed(load_file(file).items())), file, {"written": "again"})
    os.utime(tmp_path / "models" / "one" / "model.safetensors")
    own["search"]["trials"] = 10
    go(own, tmp_path / "runs")
    again = json.loads((tmp_path / "runs" / "small" / FILE).read_text())
    assert again["items"] == recorded["items"]
    two = str(tmp_path / "models" / "two")
    assert again["checkpoints"][two]["tensors"] == recorded["checkpoints"][two]["tensors"]
    assert again["checkpoints"][two]["states"] != recorded["checkpoints"][two]["states"]


def test_a_run_of_an_earlier_version_is_gone_on_with(config: Data, tmp_path: Path) -> None:
    config["search"]["trials"] = 9
    go(config, tmp_path)
    (tmp_path / "small" / FILE).unlink()
    config["search"]["trials"] = 10
    go(config, tmp_path)
    assert (tmp_path / "small" / FILE).exists()


def test_a_run_without_trials_is_about_what_is_there_now(
    own: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(monkeypatch, "score", 1, own, tmp_path / "runs")
    change_tensor(tmp_path)
    go(own, tmp_path / "runs")
    tensor = load_file(tmp_path / "models" / "two" / "model.safetensors")["model.norm.weight"]
    assert not torch.equal(tensor, torch.ones_like(tensor))
