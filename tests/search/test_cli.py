"""The commands as a person uses them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

import mergesearch
from mergesearch.demo.command import write_config
from mergesearch.evaluators.tasks.bits_per_byte import BitsPerByte
from mergesearch.merge_ops.methods import METHODS
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.cli import main
from mergesearch.search.config import Config
from mergesearch.search.problem.problem import read_config
from mergesearch.search.report.methods_page import clauses
from mergesearch.search.report.screen import console
from mergesearch.search.samplers import SAMPLERS

from .helpers import rescored

COMMANDS = ["demo", "run", "soup", "merge", "remerge", "eval", "compare", "leaderboard", "check", "methods"]
COMMANDS += ["align", "curve", "init", "list", "show", "status", "stop", "submit", "push", "export", "worker"]


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_all_commands_are_there() -> None:
    assert sorted(main.commands) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_screen_and_shows_an_example(command: str) -> None:
    lines = invoke(command, "--help").output.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100
    assert any(line.strip().startswith(f"Example: mergesearch {command}") for line in lines)


def test_python_m() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mergesearch", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("python -m mergesearch, version")


def test_output_that_cannot_be_written_is_an_error() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "mergesearch", "methods"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_goes_on_where_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", encoding="utf-8") as closed:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdout", closed)
        screen = console()
        screen.print("checking")
        screen.print("searching")
        assert screen.quiet


def test_the_demos_config_is_written_beside_its_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = write_config()
    written, installed = (Config.read(each) for each in (file, Path(mergesearch.__file__).parent / "configs/demo.yml"))
    assert written.recipe["base_model"] == str(tmp_path / "results/demo/base")
    assert written.evaluate.include_path == str(tmp_path / "results/demo/tasks")
    assert file.read_text().count("results/demo") == 1
    assert written.search == installed.search
    file.write_text("mine")
    assert write_config().read_text() == "mine"


def test_methods_lists_every_method() -> None:
    lines = invoke("methods").output.splitlines()
    assert [line.split()[0] for line in lines] == list(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_method_page(name: str) -> None:
    page = invoke("methods", name).output
    method = METHODS[name]
    assert all(f"  {clause}\n" in page for clause in clauses(method.formula))
    assert method.paper in page.replace("\n  https", ", https")
    for parameter in method.parameters:
        assert f"\n  {parameter.name} " in page
    assert method.corners in " ".join(page.split())
    assert max(map(len, page.splitlines())) <= 120


@pytest.mark.parametrize("name", METHODS)
def test_the_example_on_a_methods_page_is_a_recipe(name: str) -> None:
    recipe = Recipe.read(yaml.safe_load(invoke("methods", name).output.split("example:")[1]))
    assert recipe.merge_method == name
    given = {key for settings in (recipe.parameters, recipe.models[0].parameters) for key in settings}
    assert given >= {parameter.name for parameter in METHODS[name].parameters if parameter.default is None}


def test_run_then_run_again_then_eval_and_merge(config_file: Path, tmp_path: Path) -> None:
    results = tmp_path / "runs"
    first = invoke("run", config_file, "--trials", 10, "--results", results, "--name", "mine")
    assert first.exit_code == 0, first.output
    for label in ("base", "one", "two", "uniform soup", "greedy soup", "ties", "Use "):
        assert label in first.output
    again = invoke("run", config_file, "--trials", 12, "--results", results, "--name", "mine")
    assert "10 of 12 trials are done" in again.output
    verdict = json.loads((results / "mine" / "verdict.json").read_text())
    assert verdict["sentence"].split(":")[0] in again.output.replace("\n", " ")

    merged = invoke("merge", results / "mine" / "best.yml", tmp_path / "merged")
    assert merged.exit_code == 0, merged.output
    evaluated = invoke("eval", tmp_path / "merged", config_file, "--json")
    found = json.loads(evaluated.stdout)
    recorded = verdict["winner"]["tasks"]["text"]["all"]
    assert found["tasks"]["text"]["bits_per_byte"] == rescored(recorded)
    assert "bits_per_byte" in invoke("eval", tmp_path / "merged", config_file).output


def test_check_shows_the_space_and_the_tasks(config_file: Path) -> None:
    shown = invoke("check", config_file)
    assert shown.exit_code == 0, shown.output
    for text in ("merge_method", "one.weight[2]", "one.density", "two.weight.mlp", "0.1 to 1", "bits_per_byte"):
        assert text in shown.output
    density = next(line for line in shown.output.splitlines() if "one.density" in line)
    assert "number" in density
    assert "ties, dare_ties" in shown.output


def test_check_shows_every_sampler_and_what_a_run_costs(config_file: Path) -> None:
    shown, measured = (" ".join(invoke("check", config_file, *more).output.split()) for more in ([], ["--measure"]))
    for name in SAMPLERS:
        assert f" {name} " in shown
    assert "memory: checkpoints: " in shown
    assert "CPU, models in RAM" in shown
    assert "(some items were scored; --measure builds candidates)" in shown
    assert "(candidates were built and items scored)" in measured


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("merge", "nowhere.yml", "out"), "nowhere.yml: there is no such file"),
        (("check", "nowhere.yml"), "nowhere.yml: there is no such file"),
        (("eval", "nowhere", "nowhere.yml"), "nowhere.yml: there is no such file"),
        (("methods", "slrp"), "did you mean 'slerp'?"),
    ],
)
def test_user_errors_end_with_2(arguments: tuple[str, ...], message: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr


def test_merge_does_not_overwrite(models: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(f"merge_method: linear\nmodels:\n- model: {models / 'one'}\n  parameters: {{weight: 1}}\n")
    result = invoke("merge", recipe, models / "base")
    assert result.exit_code == 2
    assert "already exists" in result.stderr


def test_interrupt_says_how_to_resume(config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mergesearch.evaluators.tasks.bits_per_byte import BitsPerByte

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(BitsPerByte, "score", interrupted)
    result = invoke("run", config_file, "--results", tmp_path / "runs")
    assert result.exit_code == 130
    assert "the same command resumes the run" in result.stderr


def test_eval_says_what_should_be_known_beside_its_json(
    config_file: Path, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BitsPerByte, "prepare", lambda *_: ["2 of 8 texts are cut"])
    evaluated = invoke("eval", config["recipe"]["base_model"], config_file, "--json")
    assert evaluated.stderr.splitlines()[-1] == "task 'text': 2 of 8 texts are cut"
    assert json.loads(evaluated.stdout)["items"].keys() == {"text"}


def test_a_recipe_is_no_config_and_a_config_no_recipe(config_file: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yml"
    recipe.write_text("merge_method: linear\nmodels: [{model: a}]\n")
    for command in ("run", "check"):
        found = invoke(command, recipe)
        assert found.exit_code == 2
        assert f"{recipe}: is a recipe, not a config: `mergesearch merge {recipe} OUT` writes its model" in found.output
    found = invoke("merge", config_file, tmp_path / "out")
    assert found.exit_code == 2
    assert f"{config_file}: is a config, not a recipe: `mergesearch run {config_file}` searches" in found.output


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("search.trails=5", "there is no key 'search.trails'; did you mean 'search.trials'?"),
        ("trials=5", "there is no key 'trials'; did you mean 'search.trials'?"),
        ("serch.trials=5", "there is no key 'serch.trials'; did you mean 'search.trials'?"),
        ("search.racing.eror=0.1", "there is no key 'search.racing.eror'; did you mean 'search.racing.error'?"),
        ("search.trials", "found 'search.trials', expected KEY=VALUE, such as search.trials=200"),
        ("search.trials=many", "search.trials: found 'many', expected: "),
        ("search.trials={", "search.trials: found '{', which is not YAML: "),
        ("evaluate.tasks[7].weight=1", "evaluate.tasks[7].weight: found '7', expected a place in a list: 0 to 0"),
        ("evaluate.tasks[0].wieght=1", "evaluate.tasks[0]: unknown key 'wieght'; did you mean 'weight'?"),
    ],
)
def test_what_is_wrong_with_a_value_is_said(config_file: Path, value: str, message: str) -> None:
    found = invoke("run", config_file, value)
    assert found.exit_code == 2
    assert f"error: {config_file}: {message}" in found.output


def test_values_override_the_config(config_file: Path) -> None:
    before = read_config(config_file)
    values = ("search.trials=5", "evaluate.tasks[0].weight=2", "search.racing.error=0.1", "output={name: other}")
    now = read_config(config_file, trials=7, values=values)
    assert (now.search.trials, now.evaluate.tasks[0].weight, now.output.name) == (5, 2.0, "other")
    assert now.search.racing == before.search.racing.model_copy(update={"error": 0.1})
    assert now.recipe == before.recipe
