"""Everything that can be wrong with a config is found before the first trial, with a message that helps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from mergesearch.parsing import dump_yaml
from mergesearch.search.cli import main
from mergesearch.search.config import Config

Data = dict[str, Any]
Edit = Callable[[Data], object]


def edit_checkpoint(config: Data, tmp_path: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Puts an edited copy of the second model in its place."""
    source, target = Path(config["recipe"]["models"][1]["model"]), tmp_path / "edited"
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    tensors = load_file(source / "model.safetensors")
    edit(tensors)
    save_file(tensors, target / "model.safetensors")
    config["recipe"]["models"][1]["model"] = str(target)


def both(config: Data, tmp_path: Path) -> str:
    """What ``check`` and ``run`` say, which is the same, with exit code 2 and nothing begun."""
    file = tmp_path / "my.yml"
    file.write_text(dump_yaml(config))
    said = []
    for command in (["check", str(file)], ["run", str(file), "--results", str(tmp_path / "runs")]):
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 2, result.output
        assert "Traceback" not in result.output
        said.append(result.stderr)
    assert not (tmp_path / "runs").exists()
    assert said[0] == said[1]
    assert said[0].startswith(f"error: {file}: ")
    return said[0]


def put(*keys: Any, to: Any) -> Edit:
    def edit(data: Any) -> None:
        for key in keys[:-1]:
            data = data[key]
        data[keys[-1]] = to

    return edit


WRONG: dict[str, tuple[Edit, str]] = {
    "unknown key": (put("serach", to={}), "unknown key 'serach'; did you mean 'search'?"),
    "unknown inner key": (put("search", "trails", to=3), "search: unknown key 'trails'; did you mean 'trials'?"),
    "unknown recipe key": (put("recipe", "base", to="x"), "unknown key 'base'; did you mean 'base_model'?"),
    "unknown task key": (
        put("evaluate", "tasks", 0, "file", to=[]),
        "evaluate.tasks[0]: unknown key 'file'; did you mean 'files'?",
    ),
    "wrong type": (put("search", "trials", to="many"), "search.trials: found 'many', expected: "),
    "zero trials": (put("search", "trials", to=0), "search.trials: found 0, expected: "),
    "missing section": (lambda data: data.pop("evaluate"), "evaluate: is missing"),
    "unknown sampler": (
        put("search", "sampler", to="cmae"),
        "search.sampler: there is no sampler 'cmae'; did you mean",
    ),
    "unknown evaluator": (
        put("evaluate", "tasks", 0, "evaluator", to="lm-eval"),
        "there is no evaluator 'lm-eval'; did you mean 'lm_eval'?",
    ),
    "no split": (lambda data: data["evaluate"].pop("split"), "evaluate: expected split"),
    "limit of one": (
        put("evaluate", "limit", to=1),
        "evaluate.limit: found 1, expected a number of items, 2 or more, or",
    ),
    "limit of a task": (
        lambda data: data["evaluate"]["tasks"][0].update(limit="all"),
        "limit: found 'all', expected a number of items, such as 1000",
    ),
    "split does not add up": (put("evaluate", "split", "search", to=0.7), "search and test are 0.7 and 0.5"),
    "nothing counts": (put("evaluate", "tasks", 0, "weight", to=0), "every weight in tasks is 0"),
    "task twice": (
        lambda data: data["evaluate"]["tasks"].append(data["evaluate"]["tasks"][0]),
        "is listed 2 times, expected once",
    ),
    "files that are not there": (put("evaluate", "tasks", 0, "files", to=["nowhere/*.txt"]), "nowhere/*.txt"),
    "too few items": (put("evaluate", "split", to={"search": 0.99, "test": 0.01}), "cannot be split"),
    "model that is not there": (put("recipe", "models", 0, "model", to="./nowhere"), "/nowhere: there is no such"),
    "model without a path": (put("recipe", "models", 0, to={"parameters": {}}), "recipe: models[0]: found"),
    "no models": (put("recipe", "models", to=[]), "recipe: models: found [], expected a list"),
    "unknown method": (put("recipe", "merge_method", to="tiees"), "no method 'tiees'; did you mean 'ties'?"),
    "unknown parameter": (
        put("recipe", "models", 0, "parameters", "densty", to=0.5),
        "models[0].parameters: there is no parameter 'densty'; did you mean 'density'?",
    ),
    "value out of range": (
        put("recipe", "models", 1, "parameters", "density", to=3),
        "models[1].parameters.density: 3 is not between 0 and 1",
    ),
    "missing parameter": (lambda data: data["recipe"]["models"][1].pop("parameters"), "'weight' of "),
    "unknown dtype": (put("recipe", "dtype", to="float"), "recipe: dtype: found 'float', expected: "),
    "slices": (
        lambda data: data["recipe"].update(slices=data["recipe"].pop("models")),
        "slices[0]: unknown key 'model'",
    ),
    "bad name": (put("output", "name", to="../x"), "output.name: found '../x', expected: "),
    "output is no mapping": (put("output", to="x"), "output: found 'x', expected: "),
    "search is no mapping": (put("search", to=[1]), "search: found [1], expected: "),
    "parameters are no mapping": (put("recipe", "models", 0, "parameters", to=3), "models[0].parameters: found 3"),
    "artifacts beside no database": (
        put("search", "artifacts", to="s3://bucket/runs"),
        "artifacts: found beside no storage, expected a PostgreSQL database",
    ),
    "artifacts beside SQLite": (
        put("search", to={"storage": "sqlite:///study.db", "artifacts": "folder"}),
        "artifacts: found beside storage: sqlite, expected a PostgreSQL database",
    ),
    "artifacts that are no store": (
        put("search", to={"storage": "postgresql://me@host/x", "artifacts": "ftp://x"}),
        "search.artifacts: found 'ftp://x', expected a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX",
    ),
    "not a mapping": (put("evaluate", to=3), "evaluate: found 3, expected: "),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_config(config: Data, tmp_path: Path, case: str) -> None:
    edit, message = WRONG[case]
    edit(config)
    assert message in both(config, tmp_path)


def test_tensors_of_another_shape(config: Data, tmp_path: Path) -> None:
    name = "model.embed_tokens.weight"
    edit_checkpoint(config, tmp_path, lambda tensors: tensors.update({name: tensors[name][:-1].clone()}))
    said = both(config, tmp_path)
    assert "the checkpoints differ in model.embed_tokens.weight ([30, 16] in " in said
    assert "; [29, 16] in " in said


def test_tensors_that_one_model_has_not(config: Data, tmp_path: Path) -> None:
    edit_checkpoint(config, tmp_path, lambda tensors: tensors.pop("model.norm.weight"))
    said = both(config, tmp_path)
    assert "the checkpoints differ in model.norm.weight ([16] in " in said
    assert "; missing in " in said


def test_tensors_that_one_model_has_not_may_be_the_bases(config: Data, tmp_path: Path) -> None:
    edit_checkpoint(config, tmp_path, lambda tensors: tensors.pop("model.norm.weight"))
    config["recipe"]["on_mismatch"] = "base"
    config["search"]["trials"] = 10
    file = tmp_path / "my.yml"
    file.write_text(dump_yaml(config))
    result = CliRunner().invoke(main, ["run", str(file), "--results", str(tmp_path / "runs")])
    assert result.exit_code == 0, result.output
    base, model = (
        load_file(Path(folder) / "model.safetensors")["model.norm.weight"]
        for folder in (config["recipe"]["base_model"], tmp_path / "runs" / "small" / "model")
    )
    assert torch.equal(base, model)


def test_several_mistakes_are_told_at_once(config: Data, tmp_path: Path) -> None:
    config["search"] = {"trials": 0, "sampler": "x"}
    said = both(config, tmp_path)
    assert "search.trials" in said
    assert "search.sampler" in said


@pytest.mark.parametrize("text", ["a: [1", "\tx: 1", "- 1\n- 2", ""])
def test_not_a_config_at_all(tmp_path: Path, text: str) -> None:
    file = tmp_path / "my.yml"
    file.write_text(text)
    result = CliRunner().invoke(main, ["check", str(file)])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {file}: ")


def test_yaml_that_would_run_code_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "my.yml"
    file.write_text("recipe: !!python/object/apply:os.system ['echo no']\n")
    result = CliRunner().invoke(main, ["check", str(file)])
    assert result.exit_code == 2
    assert "is not YAML" in result.stderr


def test_dump_reads_back_equal(config: Data) -> None:
    parsed = Config.model_validate(config)
    again = Config.model_validate(parsed.dump())
    assert again == parsed
    assert again.dump() == parsed.dump()


def test_command_line_over_file(config_file: Path) -> None:
    read = Config.read(config_file, trials=5, seed=7, name="other", storage=None)
    assert (read.search.trials, read.search.seed, read.output.name) == (5, 7, "other")
    assert Config.read(config_file).search.trials == 17


def test_other_tasks_for_the_verdict(config: Data, tmp_path: Path) -> None:
    files = [str(tmp_path / "one.txt"), str(tmp_path / "two.txt")]
    for name in files:
        Path(name).write_text(f"another text, {name}")
    del config["evaluate"]["split"]
    config["evaluate"]["test_tasks"] = [{"evaluator": "bits_per_byte", "task": "other", "files": files}]
    file = tmp_path / "my.yml"
    file.write_text(dump_yaml(config))
    result = CliRunner().invoke(main, ["check", str(file)])
    assert result.exit_code == 0, result.output
    assert "other" in result.output
