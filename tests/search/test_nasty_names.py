"""Names and messages of other people go through a whole run, and nothing interprets them."""

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mergesearch.parsing import dump_yaml
from mergesearch.search.study import trials as t

from .helpers import Data, go, study_of

MODELS = {
    "base": "base [bold]",
    "one": "x[red] <img src=x onerror=alert(1)>",
    "two": "2024-01-01 `a` :bomb: %{x} \u202eb",
}
TASKS = ["<b>[red]t[:bomb:] 模型</b><script>alert(1)</script>", "%{x}<br>two \x1b[2J"]
JUDGE = """
def judge(model, tokenizer, items):
    total = float(sum(p.double().abs().sum() for p in model.parameters()))
    if int(total * 1e6) % 4 == 0:
        raise ValueError("[red]bad[/red] <script>alert(2)</script> \\x1b[2J \\ud800 [/" + "x" * 20_000_000)
    return {item: (hash((item, total)) % 97) / 97 for item in items}


judge.items = [f"[bold]item[/] {n}" for n in range(16)]
"""


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, _: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)


@pytest.fixture
def nasty(config: Data, models: Path, tmp_path: Path) -> Data:
    for name, other in MODELS.items():
        shutil.copytree(models / name, tmp_path / "models" / other)
    (tmp_path / "judge.py").write_text(JUDGE)
    entries = [
        {"model": f"models/{MODELS[name]}", "parameters": {"weight": {"search": [0.0, 1.5]}}} for name in ("one", "two")
    ]
    config["recipe"] = {"merge_method": "task_arithmetic", "base_model": f"models/{MODELS['base']}", "models": entries}
    config["evaluate"]["tasks"] = [
        {"evaluator": "function", "task": task, "metric": "[blink]m<i>", "function": "judge.py:judge"} for task in TASKS
    ]
    config["evaluate"]["aggregate"] = "pareto"
    config["search"] = {"trials": 13}
    return config


def test_a_run_of_nasty_names(nasty: Data, tmp_path: Path) -> None:
    (tmp_path / "c.yml").write_text(dump_yaml(nasty), encoding="utf-8")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "mergesearch", "run", "c.yml"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert "\x1b" not in done.stdout
    assert "x[red] <img src=x onerror=alert(1)>" in done.stdout
    assert ":bomb:" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 150
    folder = tmp_path / "results" / "runs" / "small"
    failed = [trial for trial in t.finished(study_of(folder)) if t.REASON in trial.user_attrs]
    assert all(len(trial.user_attrs[t.REASON]) < 3_000 for trial in failed)
    page = (folder / "report.html").read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL))
    page_tags = (
        "html head meta title style script body main section h1 h2 p ul li small figure figcaption div noscript pre "
        "table caption thead tbody tr th td span wbr dl dt dd details summary h3 label input select option"
    )
    assert tags.found <= set(page_tags.split())
    assert not re.search(r"<script>alert|<img src=x|\x1b|\u202e", page)
    card = (folder / "model" / "README.md").read_text(encoding="utf-8")
    assert "\x1b" not in card


ERRORS = """
import sys
from pathlib import Path

import torch

HERE = Path(__file__).parent


class Mute(RuntimeError):
    def __str__(self):
        raise SystemExit(0)

    __repr__ = __str__


class Endless(ValueError):
    def __str__(self):
        return "x" * 20_000_000


def deeper():
    deeper()


def fail(number):
    if number == 1:
        raise Mute
    if number == 2:
        raise Endless
    if number == 3:
        raise ExceptionGroup("several", [KeyError("one"), Mute()])
    if number == 4:
        deeper()
    if number == 5:
        raise MemoryError
    if number == 6:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
    if number == 7:
        raise OSError(5, "Input/output error", "\\udce9.txt")
    if number == 8:
        raise GeneratorExit


def judge(model, tokenizer, items):
    candidate = repr(float(sum(p.double().sum() for p in model.parameters())))
    with (HERE / "calls.txt").open("a") as calls:
        calls.write(candidate + "\\n")
    fail(list(dict.fromkeys((HERE / "calls.txt").read_text().split())).index(candidate))
    return {item: (hash((item, candidate)) % 97) / 97 for item in items}


judge.items = [f"item {n}" for n in range(16)]
"""


def test_every_kind_of_error_fails_its_candidate_with_a_reason(config: Data, tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text(ERRORS)
    task = {"evaluator": "function", "task": "judged", "function": f"{tmp_path / 'judge.py'}:judge"}
    config["evaluate"]["tasks"] = [task]
    config["search"] |= {"trials": 14, "racing": False}
    config["output"]["model"] = False
    go(config, tmp_path)
    reasons = [trial.user_attrs[t.REASON] for trial in t.finished(study_of(tmp_path / "small")) if not trial.values]
    expected = [
        "Mute: (a Mute that cannot be shown: its __str__ raises SystemExit)",
        "Endless: xxx",
        "ExceptionGroup: several (2 sub-exceptions): KeyError: 'one'; Mute: (a Mute that cannot be shown",
        "RecursionError: maximum recursion depth exceeded",
        "MemoryError: in ",
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB",
        "OSError: [Errno 5] Input/output error: '",
        "task 'judged': GeneratorExit: in ",
    ]
    for reason, begins in zip(dict.fromkeys(reasons), expected, strict=True):
        assert reason.startswith(begins)
        assert len(reason) < 5_000
        assert reason.encode()
