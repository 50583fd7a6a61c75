"""Scores of functions and of programs: believed when they are what was asked for, else a failure with its reason."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from mergesearch.errors import UserError
from mergesearch.evaluators import LoadedModel, Shared
from mergesearch.evaluators.tasks.command import Command
from mergesearch.evaluators.tasks.function import Function


def function(file: Path, code: str, **options: Any) -> Function:
    file.write_text(textwrap.dedent(code))
    parsed = Function.Options.model_validate({"task": "judged", "function": f"{file}:judge", **options})
    return Function(parsed, Shared())


def command(folder: Path, code: str, **options: Any) -> Command:
    file = folder / "program.py"
    file.write_text("import json, sys, time\nfrom pathlib import Path\n" + textwrap.dedent(code))
    arguments = [sys.executable, "-I", "-S", str(file), "{model}", "{items}"]
    parsed = Command.Options.model_validate({"task": "judged", "command": arguments, **options})
    return Command(parsed, Shared())


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where candidates are written; must be empty in the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def test_a_function_gets_model_and_tokenizer(subject: LoadedModel, tmp_path: Path) -> None:
    judged = function(
        tmp_path / "f.py",
        """
        import torch
        def judge(model, tokenizer):
            assert not torch.is_grad_enabled()
            ids = tokenizer("the cat", return_tensors="pt").input_ids
            return float(model(ids).logits.max())
        """,
    )
    with torch.no_grad():
        expected = float(subject.model(subject.tokenizer("the cat", return_tensors="pt").input_ids).logits.max())
    assert judged.score(subject, judged.items).tolist() == [expected]
    assert len(judged.items) == 1


def test_a_function_is_asked_for_the_items_wanted_where_it_minds(subject: LoadedModel, tmp_path: Path) -> None:
    asked = function(
        tmp_path / "f.py",
        """
        calls = []
        def judge(model, tokenizer, items):
            calls.append(items)
            return dict.fromkeys(items, 1.0)
        judge.items = ["a", "b", "c"]
        """,
    )
    asked.score(subject, asked.items[1:])
    assert asked._function.__globals__["calls"] == [["b", "c"]]
    every = function(
        tmp_path / "g.py",
        """
        def judge(model, tokenizer):
            return {"a": 1, "b": 2, "c": 3}
        judge.items = {"a": "same", "b": "same", "c": "other"}
        """,
    )
    assert every.score(subject, every.items[1:]).tolist() == [2.0, 3.0]
    assert every.items[0].fingerprint == every.items[1].fingerprint != every.items[2].fingerprint


FAULTS = {
    "nothing for an item": ('return {"a": 1.0}', ValueError, "found scores for a, but none for b"),
    "one number": ("return 0.5", ValueError, "found 0.5, expected a mapping from items to numbers"),
    "no number": ('return {"a": 1.0, "b": "x"}', ValueError, "item b: found score 'x', expected a number"),
    "not a number": (
        'return {"a": 1.0, "b": float("nan")}',
        FloatingPointError,
        "item b: found score nan, expected a finite number",
    ),
    "infinite": (
        'return {"a": float("inf"), "b": 1.0}',
        FloatingPointError,
        "item a: found score inf, expected a finite number",
    ),
    "an exception": ('raise KeyError("lost")', KeyError, "lost"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_functions_faults(subject: LoadedModel, tmp_path: Path, case: str) -> None:
    line, kind, message = FAULTS[case]
    judged = function(tmp_path / "f.py", f'def judge(model, tokenizer):\n    {line}\njudge.items = ["a", "b"]\n')
    with pytest.raises(kind, match=message):
        judged.score(subject, judged.items)


def test_items_that_were_not_said_before(subject: LoadedModel, tmp_path: Path) -> None:
    judged = function(tmp_path / "f.py", 'def judge(model, tokenizer):\n    return {"a": 1.0}\n')
    with pytest.raises(ValueError, match="expected one number for the whole model, or declare the items first"):
        judged.score(subject, judged.items)


WRONG_FUNCTIONS = {
    "import error": ("import nowhere_at_all", r"f\.py: cannot be imported: ModuleNotFoundError"),
    "no such name": ("def judgee(model, tokenizer): ...", "has no 'judge'; did you mean 'judgee'"),
    "no function": ("judge = 3", "is 3, expected a function"),
    "too few arguments": ("def judge(model): ...", r"expected \(model, tokenizer\)"),
    "items twice": ("def judge(m, t): ...\njudge.items = ['a', 'a']", "items: found 'a', expected names"),
    "items of numbers": ("def judge(m, t): ...\njudge.items = [1, 2]", "items: found 1, expected names"),
    "no items": ("def judge(m, t): ...\njudge.items = []", r"items: found \[\], expected names"),
}


@pytest.mark.parametrize("case", WRONG_FUNCTIONS)
def test_wrong_functions(tmp_path: Path, case: str) -> None:
    code, message = WRONG_FUNCTIONS[case]
    with pytest.raises(UserError, match=message):
        function(tmp_path / "f.py", code)


def test_functions_that_are_not_there(tmp_path: Path) -> None:
    for name, message in (
        (f"{tmp_path}/none.py:judge", "there is no such file"),
        ("nowhere_at_all.inside:judge", "cannot be imported: .*; a file is named with its path"),
        ("math:sqr", "math has no 'sqr'; did you mean 'sqrt'"),
        ("judge", "found 'judge', expected 'module:name' or 'path/to/file.py:name'"),
    ):
        with pytest.raises(UserError, match=message):
            Function(Function.Options(task="t", function=name), Shared())


def test_a_program_gets_the_folder_and_it_is_removed(subject: LoadedModel, tmp_path: Path, temporary: Path) -> None:
    judged = command(
        tmp_path,
        """
        size = Path(sys.argv[1], "model.safetensors").stat().st_size
        print("a word before")
        print(json.dumps({name: size for name in Path(sys.argv[2]).read_text().split()}))
        """,
        items=["a", "b", "c"],
    )
    scores = judged.score(subject, judged.items[1:])
    assert len(set(scores.tolist())) == 1
    assert scores[0] > 320 * 32 * 4
    assert not list(temporary.iterdir())


@pytest.mark.usefixtures("temporary")
def test_one_number_for_the_whole_model(subject: LoadedModel, tmp_path: Path) -> None:
    judged = command(tmp_path, 'print(json.dumps({"score": 0.25}, indent=2))', metric="wins", higher_is_better=False)
    assert judged.score(subject, judged.items).tolist() == [0.25]
    assert (judged.metric.name, judged.metric.higher_is_better) == ("wins", False)


PROGRAM_FAULTS = {
    "status": ('sys.stderr.write("no GPU\\n"); sys.exit(3)', RuntimeError, "ended with status 3: no GPU"),
    "signal": (
        "import os; os.kill(os.getpid(), 11)",
        RuntimeError,
        "was ended by signal 11, segmentation fault: no error output",
    ),
    "silence": ("sys.exit(1)", RuntimeError, "ended with status 1: no error output"),
    "two scores": ('print(chr(123) + \'"a": 1, "a": 2}\')', RuntimeError, "printed two scores of 'a', expected one"),
    "too deep": ('print("[" * 100_000)', ValueError, "expected JSON"),
    "no JSON": ('print("fine")', ValueError, "printed 'fine', expected JSON"),
    "nothing": ("", ValueError, "printed '', expected JSON"),
    "NaN": ('print("""{"score": NaN}""")', FloatingPointError, "found score nan, expected a finite number"),
    "other items": ('print("""{"a": 1}""")', ValueError, "found scores for a, but none for score"),
}


@pytest.mark.parametrize("case", PROGRAM_FAULTS)
def test_a_programs_faults(subject: LoadedModel, tmp_path: Path, temporary: Path, case: str) -> None:
    code, kind, message = PROGRAM_FAULTS[case]
    judged = command(tmp_path, code)
    with pytest.raises(kind, match=message):
        judged.score(subject, judged.items)
    assert not list(temporary.iterdir())


def test_a_program_that_takes_too_long_ends_with_its_children(
    subject: LoadedModel, tmp_path: Path, temporary: Path
) -> None:
    child = tmp_path / "child"
    judged = command(
        tmp_path,
        f"""
        import subprocess
        sleeper = subprocess.Popen(["sleep", "60"])
        Path({str(child)!r}).write_text(str(sleeper.pid))
        sleeper.wait()
        """,
        timeout=1,
    )
    with pytest.raises(RuntimeError, match="took longer than 1 s"):
        judged.score(subject, judged.items)
    assert not list(temporary.iterdir())
    assert is_gone(int(child.read_text()))


def is_gone(pid: int) -> bool:
    """Whether the process has ended, at once or within a second; a dead one nobody waited for counts."""
    status = Path(f"/proc/{pid}/stat")
    for _ in range(20):
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


TERMINATED = """
import sys
from pathlib import Path
import torch
from mergesearch.evaluators import LoadedModel, Shared
from mergesearch.evaluators.tasks.command import Command
options = Command.Options(task="t", command=["sh", "-c", "touch " + sys.argv[1] + "; sleep 60", "{model}"])
judged = Command(options, Shared())
judged.score(LoadedModel(torch.nn.Identity(), None, lambda folder: folder.mkdir()), judged.items)
"""


def test_the_folder_is_removed_when_the_search_is_ended(tmp_path: Path, temporary: Path) -> None:
    started = tmp_path / "started"
    environment = {**os.environ, "TMPDIR": str(temporary)}
    process = subprocess.Popen([sys.executable, "-c", TERMINATED, str(started)], env=environment)
    while not started.exists():
        assert process.poll() is None
        time.sleep(0.02)
    assert list(temporary.iterdir())
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM
    assert not list(temporary.iterdir())


@pytest.mark.usefixtures("temporary")
def test_no_shell_reads_the_command(subject: LoadedModel) -> None:
    options = Command.Options(task="t", command='echo \'{"score": 1}\' {model} "; touch x" $HOME')
    judged = Command(options, Shared())
    with pytest.raises(ValueError, match=r"; touch x \$HOME"):
        judged.score(subject, judged.items)


def test_wrong_commands(tmp_path: Path) -> None:
    for options, message in (
        ({"command": "true"}, "expected {model} in place of the candidate's folder"),
        ({"command": "nowhere-at-all {model}"}, "there is no program 'nowhere-at-all'"),
        ({"command": 'true "{model}'}, "No closing quotation"),
        ({"command": ["true", "{model}"], "items": str(tmp_path / "none")}, "items: .*none: there is no such file"),
    ):
        with pytest.raises(UserError, match=message):
            Command(Command.Options.model_validate({"task": "t", **options}), Shared())


def test_items_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("one\ntwo\n\n")
    options = Command.Options(task="t", command=["true", "{model}"], items=str(tmp_path / "names.txt"))
    assert [item.id for item in Command(options, Shared()).items] == ["one", "two"]
