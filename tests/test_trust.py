"""Code that comes with somebody else's files runs only where it is allowed, and is told before it runs."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mergesearch.errors import UserError
from mergesearch.parsing import dump_yaml
from mergesearch.search.cli import main
from mergesearch.trust import require_trust, tell_code, trust_code

INPUTS = Path(__file__).parent / "merge_ops" / "golden" / "inputs"
METHOD = """
from dataclasses import replace
from pathlib import Path
from mergesearch.merge_ops.methods import METHODS
Path("ran").touch()
METHOD = replace(METHODS["linear"], name="mine")
"""
TASK = """task: own
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: gold
num_fewshot: 0
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a method, a recipe that names it, and a model."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(INPUTS / "L4-ft1", tmp_path / "model")
    (tmp_path / "mine.py").write_text(METHOD, encoding="utf-8")
    recipe = {"merge_method": "mine.py:METHOD", "models": [{"model": "model", "parameters": {"weight": 1.0}}]}
    (tmp_path / "recipe.yml").write_text(dump_yaml(recipe), encoding="utf-8")
    return tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def write_task(folder: Path, **changes: str) -> None:
    """Writes a task of eight items, and a config that has it."""
    (folder / "tasks").mkdir()
    docs = [{"question": f"{n} is", "choices": ["odd", "even"], "gold": n % 2} for n in range(8)]
    (folder / "docs.jsonl").write_text("\n".join(map(json.dumps, docs)), encoding="utf-8")
    lines = TASK.replace("DATA", str(folder / "docs.jsonl")).splitlines()
    lines = [line for line in lines if line.partition(":")[0] not in changes]
    lines += [f"{key}: {value}" for key, value in changes.items()]
    (folder / "tasks" / "own.yaml").write_text("\n".join(lines), encoding="utf-8")
    write_config(folder)


def write_config(folder: Path, **keys: object) -> None:
    config: dict[str, Any] = {
        "recipe": {"merge_method": "linear", "models": [{"model": "model", "parameters": {"weight": 1.0}}]},
        "evaluate": {"include_path": "tasks", "split": {"search": 0.5}, "tasks": [{"task": "own", "metric": "acc"}]},
        **keys,
    }
    (folder / "config.yml").write_text(dump_yaml(config), encoding="utf-8")


def test_permission_holds_within_the_context_and_is_inherited() -> None:
    with pytest.raises(UserError, match=r"recipe: needs code, x\.py, .*--trust"):
        require_trust("x.py", "recipe")
    with trust_code(), trust_code(False):
        require_trust("x.py", "recipe")
    with trust_code(False), pytest.raises(UserError):
        require_trust("x.py", "recipe")


def test_code_is_told_once() -> None:
    told: list[str] = []
    with trust_code(tell=told.append):
        for code in ("one", "two", "one"):
            require_trust(code, "recipe")
        tell_code("three")
    tell_code("nobody listens")
    assert told == ["runs code: one", "runs code: two", "runs code: three"]


def test_a_recipes_method_runs_only_if_trusted(folder: Path) -> None:
    refused = call("merge", "recipe.yml", "out")
    assert refused.exit_code == 2
    assert "merge_method: needs code, mine.py:METHOD" in refused.stderr
    assert not (folder / "ran").exists()
    allowed = call("merge", "recipe.yml", "out", "--trust")
    assert allowed.exit_code == 0
    assert allowed.stderr == "runs code: mine.py:METHOD\n"
    assert (folder / "out" / "model.safetensors").exists()


def test_a_module_is_code_too(folder: Path) -> None:
    text = (folder / "recipe.yml").read_text(encoding="utf-8").replace("mine.py:METHOD", "antigravity:geohash")
    (folder / "recipe.yml").write_text(text, encoding="utf-8")
    result = call("merge", "recipe.yml", "out")
    assert (result.exit_code, "needs code, antigravity:geohash" in result.stderr) == (2, True)


@pytest.mark.parametrize("command", [("check", "config.yml"), ("eval", "model", "config.yml"), ("run", "config.yml")])
def test_a_tasks_functions_run_only_if_trusted(folder: Path, command: tuple[str, ...]) -> None:
    write_task(folder, doc_to_text="!function utils.text")
    code = "from pathlib import Path\nPath('ran').touch()\ndef text(doc): return doc['question']\n"
    (folder / "tasks" / "utils.py").write_text(code, encoding="utf-8")
    refused = call(*command)
    assert refused.exit_code == 2
    assert f"task 'own': needs code, text of {folder / 'tasks' / 'utils.py'}" in refused.stderr.replace("\n", "")
    assert not (folder / "ran").exists()
    if command[0] != "run":
        assert call(*command, "--trust").exit_code == 0
        write_config(folder, trust=True)
        allowed = call(*command)
        assert allowed.exit_code == 0
        assert f"runs code: text of {folder / 'tasks' / 'utils.py'}" in allowed.stderr


def test_functions_of_installed_modules_are_code_too(folder: Path) -> None:
    write_task(folder, process_docs="!function os.abort")
    result = call("check", "config.yml")
    assert (result.exit_code, "needs code, abort of the Python module os" in result.stderr) == (2, True)


def test_included_files_are_looked_at(folder: Path) -> None:
    write_task(folder, include="other/part.yaml")
    (folder / "tasks" / "other").mkdir()
    (folder / "tasks" / "other" / "part.yaml").write_text("doc_to_text: !function os.abort\n", encoding="utf-8")
    assert "needs code, abort" in call("check", "config.yml").stderr


def test_a_metrics_script_is_code_too(folder: Path) -> None:
    write_task(folder, metric_list="[{metric: ./mine, aggregation: mean, higher_is_better: true}]")
    (folder / "mine").mkdir()
    (folder / "mine" / "mine.py").write_text(METHOD, encoding="utf-8")
    result = call("check", "config.yml")
    assert (result.exit_code, "needs code, the metric './mine'" in result.stderr) == (2, True)
    assert not (folder / "ran").exists()


def test_templates_are_sandboxed(folder: Path) -> None:
    write_task(folder, doc_to_text="\"{{ cycler.__init__.__globals__.os.mkdir('ran') }}{{question}}\"")
    result = call("check", "config.yml", "--trust")
    assert (result.exit_code, "SecurityError" in result.stderr) == (2, True)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("answer", ["y\n", ""])
def test_the_code_of_models_never_runs(folder: Path, answer: str) -> None:
    """Nobody is asked whether it may."""
    write_task(folder)
    config = folder / "model" / "config.json"
    data = json.loads(config.read_text(encoding="utf-8"))
    remote = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model", "AutoTokenizer": ["own.Words", None]}
    data |= {"model_type": "own", "architectures": ["OwnForCausalLM"], "auto_map": remote}
    config.write_text(json.dumps(data), encoding="utf-8")
    settings = folder / "model" / "tokenizer_config.json"
    tokenizer = {"tokenizer_class": "OwnWords", "auto_map": {"AutoTokenizer": ["own.Words", None]}}
    settings.write_text(json.dumps(tokenizer), encoding="utf-8")
    (folder / "model" / "own.py").write_text("from pathlib import Path\nPath('ran').touch()\n", encoding="utf-8")
    result = CliRunner().invoke(main, ["eval", "model", "config.yml", "--trust"], input=answer)
    assert (result.exit_code, "[y/N]" in result.output, (folder / "ran").exists()) == (2, False, False)


def test_the_users_own_evaluators_are_told(folder: Path) -> None:
    (folder / "judges.py").write_text("def even(model, tokenizer): return [1.0] * 8\n", encoding="utf-8")
    tasks = [{"evaluator": "judges.py:even", "task": "even"}]
    write_config(folder, evaluate={"split": {"search": 0.5}, "tasks": tasks})
    result = call("check", "config.yml")
    assert f"runs code: {folder.resolve()}/judges.py:even\n" in result.stderr
