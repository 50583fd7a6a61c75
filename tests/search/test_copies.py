"""Files of a config on a machine that lacks them: copies are read, and the paths stay their names."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mergesearch.copies import copied, here, named
from mergesearch.errors import UserError
from mergesearch.search import copies
from mergesearch.search.config import Config
from mergesearch.search.config.paths import named_paths
from mergesearch.search.copies import Read, brought, files_of, read_part
from mergesearch.search.problem.identity import FILE
from mergesearch.search.problem.sides import calibration_texts

from .helpers import Data, course, go

FUNCTION = """
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

def judge(model, tokenizer, items):
    from scale_of_copies import SCALE

    norm = SCALE * float(sum(p.abs().sum() for p in model.parameters()))
    return {item: norm * (1 + int(item)) for item in items}

judge.items = {str(n): f"the content of item number {n}" for n in range(8)}
"""
PROGRAM = """
import json, sys
from pathlib import Path
size = sum(Path(sys.argv[1], "model.safetensors").read_bytes()[-400:])
print(json.dumps({name: size / (1 + int(name)) for name in Path(sys.argv[2]).read_text().split()}))
"""


@pytest.fixture
def there(models: Path, texts: Path, tmp_path: Path) -> Path:
    """The folder of everything that the config names, which may be moved."""
    folder = tmp_path / "there"
    shutil.copytree(models, folder / "models")
    shutil.move(texts, folder / "texts")
    (folder / "judge.py").write_text(FUNCTION)
    (folder / "scale_of_copies.py").write_text("SCALE = 2\n")
    (folder / "program.py").write_text(PROGRAM)
    (folder / "models" / "one" / "optimizer.pt").touch()
    return folder


@pytest.fixture
def own(config: Data, models: Path, texts: Path, there: Path) -> Data:
    moved = json.dumps(config).replace(str(models), str(there / "models")).replace(str(texts), str(there / "texts"))
    data: Data = json.loads(moved)
    program = f"python {there}/program.py {{model}} {{items}}"
    data["evaluate"]["tasks"] += [
        {"evaluator": "function", "task": "judge", "function": f"{there}/judge.py:judge"},
        {"evaluator": "command", "task": "program", "command": program, "items": [str(n) for n in range(8)]},
    ]
    data["search"]["trials"] = 9
    return data


def read_from(moved: Path, there: Path) -> Read:
    return lambda file, offset: read_part(file.replace(str(there), str(moved)), offset)


def test_a_worker_without_the_files_goes_on_with_the_run(own: Data, there: Path, tmp_path: Path) -> None:
    go(own, tmp_path / "runs")
    folder = tmp_path / "runs" / "small"
    before, recorded = course(folder), json.loads((folder / FILE).read_text())
    found = files_of(Config.model_validate(own).dump())
    there.rename(tmp_path / "moved")
    own["search"]["trials"] = 10
    roots = brought(found, read_from(tmp_path / "moved", there), tmp_path / "copies")
    with copied(roots):
        go(own, tmp_path / "runs")
    assert course(folder)[:9] == before
    again = json.loads((folder / FILE).read_text())
    assert again["items"] == recorded["items"]
    assert again["files"] == recorded["files"]
    assert again["checkpoints"].keys() == recorded["checkpoints"].keys()
    for file in ("best.yml", "config.yml", "verdict.json", "report.html", "study.log"):
        assert str(tmp_path / "copies") not in (folder / file).read_text(), file


def test_a_config_says_what_its_files_are(own: Data, there: Path) -> None:
    found = {each.path: each for each in files_of(Config.model_validate(own).dump())}
    names = {f"{there}/{name}" for name in ("models/base", "models/one", "models/two", "texts/*.txt")}
    assert {*found} == names | {f"{there}/judge.py", f"{there}/program.py"}
    assert f"{there}/scale_of_copies.py" in found[f"{there}/judge.py"].files
    assert len(found[f"{there}/texts/*.txt"].files) == 12
    assert f"{there}/models/one/optimizer.pt" not in found[f"{there}/models/one"].files


def test_all_kinds_of_paths(tmp_path: Path) -> None:
    (tmp_path / "own.py").touch()
    (tmp_path / "chat").mkdir()
    data: Data = {
        "builder": "/a/own.py:build",
        "recipe": {
            "merge_method": "/a/method.py:mix",
            "base_model": "org/name",
            "models": [{"model": r"/a/b\+c+/a/adapter", "parameters": {"calibration": "/a/text.txt"}}],
            "chat_template": str(tmp_path / "chat"),
            "tokenizer": {"source": "union"},
        },
        "evaluate": {
            "include_path": "/a/tasks",
            "tasks": [
                {"task": "arc_easy"},
                {"evaluator": "command", "task": "c", "command": [shutil.which("python"), str(tmp_path / "own.py")]},
            ],
        },
        "search": {"storage": "sqlite:////a/study.db"},
    }
    paths = ["/a/own.py", "/a/method.py", "/a/b+c", "/a/adapter", "/a/text.txt", "/a/tasks"]
    assert {*named_paths(data)} == {*paths, str(tmp_path / "chat"), str(tmp_path / "own.py")}
    assert {*named_paths({"soup": {"base": "/a/base", "models": ["/a/runs/*"]}})} == {"/a/base", "/a/runs/*"}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "there" / "text.sh"
    file.parent.mkdir()
    file.write_text("of many parts")
    file.chmod(0o755)
    return file


def test_a_copy_is_made_once_for_each_version(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "PART", 3)
    reads: list[int] = []

    def read(file: str, offset: int) -> bytes:
        reads.append(offset)
        return read_part(file, offset)

    data = {"evaluate": {"include_path": str(text)}}

    def copy() -> Path:
        return Path(brought(files_of(data), read, tmp_path / "copies", everything=True)[str(text)] + str(text))

    first = copy()
    assert first.read_text() == "of many parts"
    assert first.stat().st_mtime_ns == text.stat().st_mtime_ns
    assert os.access(first, os.X_OK)
    assert reads == [0, 3, 6, 9, 12, 13]
    assert copy() == first
    assert len(reads) == 6
    text.write_text("of others")
    second = copy()
    assert (first.read_text(), second.read_text()) == ("of many parts", "of others")


def test_what_is_here_is_not_copied(text: Path, tmp_path: Path) -> None:
    found = files_of({"evaluate": {"include_path": str(text)}})
    assert brought(found, read_part, tmp_path / "copies") == {}


def changing(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    text.write_text("less")


def full(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    usage = shutil.disk_usage("/")._replace(free=1)
    monkeypatch.setattr(copies, "disk_usage", lambda _: usage)


@pytest.mark.parametrize(("happens", "said"), [(changing, "has changed while it was copied"), (full, "0.0 are free")])
def test_what_cannot_be_copied(
    happens: Callable[..., None], said: str, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = files_of({"evaluate": {"include_path": str(text)}})
    happens(text, monkeypatch)
    with pytest.raises(UserError, match=said):
        brought(found, read_part, tmp_path / "copies", everything=True)
    assert not [each for each in (tmp_path / "copies").iterdir() if each.is_dir()]


def test_where_a_copy_is(tmp_path: Path) -> None:
    (tmp_path / "root" / "a").mkdir(parents=True)
    (tmp_path / "root" / "a" / "text.txt").write_text("a text")
    recipe: dict[str, Any] = {"parameters": {"calibration": "/a/text.txt"}}
    with copied({"/a/text.txt": f"{tmp_path}/root", "/a/b/": f"{tmp_path}/root"}):
        assert here("/a/text.txt") == f"{tmp_path}/root/a/text.txt"
        assert here("/a/b") == f"{tmp_path}/root/a/b"
        assert here("/a/c") == "/a/c"
        assert named(f"{tmp_path}/root/a/b/c.txt") == "/a/b/c.txt"
        assert named("/a/c") == "/a/c"
        assert calibration_texts(recipe) == ["a text"]
    assert here("/a/b") == "/a/b"
    assert calibration_texts(recipe) == []
