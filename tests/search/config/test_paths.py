"""Paths of a config are relative to its file, those of the command line to the current folder."""

import shutil
from pathlib import Path
from typing import Annotated, Any

import pytest
from click.testing import CliRunner

import mergesearch
from mergesearch.errors import UserError
from mergesearch.evaluators import EvaluatorOptions, OnDisk, path_options
from mergesearch.parsing import dump_yaml, read_yaml
from mergesearch.search.cli import main
from mergesearch.search.config import Config
from mergesearch.search.config.paths import absolute_paths, folder_of

Data = dict[str, Any]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with what a config names; the current folder is another one."""
    for name in ("base", "chat", "adapter", "models/one", "tasks", "runs/checkpoint-1", "runs/checkpoint-2"):
        (tmp_path / name).mkdir(parents=True)
    for number in (1, 2):
        (tmp_path / f"runs/checkpoint-{number}/model.safetensors").touch()
    for name in ("own.py", "texts/a.txt", "text.txt", "names.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))


def recipe(place: Path, data: Data) -> Data:
    found: Data = absolute_paths({"recipe": data}, place)["recipe"]
    return found


def test_models_of_a_recipe(place: Path) -> None:
    found = recipe(
        place,
        {
            "base_model": {"search": ["base", "org/name", "gpt2@main"]},
            "models": [{"model": "./chat"}, {"model": {"model": {"path": "base"}, "lora": {"path": "adapter"}}}],
            "slices": [{"sources": [{"model": "../up", "layer_range": [0, 2]}], "base_model": "chat"}],
            "modules": {"text": {"models": [{"model": "models/one"}]}},
            "tokenizer": {"source": "base", "tokens": {"<s>": {"source": "chat"}}},
            "chat_template": "chat",
        },
    )
    assert found["base_model"] == {"search": [f"{place}/base", "org/name", "gpt2@main"]}
    assert [entry["model"] for entry in found["models"]] == [f"{place}/chat", f"{place}/base+{place}/adapter"]
    assert found["slices"][0]["sources"] == [{"model": f"{place.parent}/up", "layer_range": [0, 2]}]
    assert found["slices"][0]["base_model"] == f"{place}/chat"
    assert found["modules"]["text"]["models"] == [{"model": f"{place}/models/one"}]
    assert found["tokenizer"] == {"source": "base", "tokens": {"<s>": {"source": f"{place}/chat"}}}
    assert found["chat_template"] == f"{place}/chat"


def test_what_is_no_path_stays(place: Path) -> None:
    plain: Data = {
        "merge_method": {"search": ["linear", "own.module:METHOD"]},
        "models": [{"model": "/root/x", "parameters": {"weight": {"search": [0, 1], "name": "base"}}}],
        "chat_template": "{{ base }}",
        "order": {"search": [["base", "chat"]]},
    }
    assert recipe(place, plain) == plain
    wrong: Data = {"recipe": [], "evaluate": {"tasks": ["x", {"task": 3}]}, "soup": 7, "search": "x"}
    assert absolute_paths(wrong, place) == wrong


def test_code_and_files_of_a_recipe(place: Path) -> None:
    found = recipe(
        place,
        {
            "merge_method": {"search": ["own.py:METHOD", "fisher"]},
            "parameters": {"calibration": {"search": ["text.txt"]}},
            "models": [{"model": "base", "parameters": {"calibration": [{"filter": "mlp", "value": "text.txt"}]}}],
        },
    )
    assert found["merge_method"] == {"search": [f"{place}/own.py:METHOD", "fisher"]}
    assert found["parameters"]["calibration"] == {"search": [f"{place}/text.txt"]}
    assert found["models"][0]["parameters"]["calibration"] == [{"filter": "mlp", "value": f"{place}/text.txt"}]


def test_tasks(place: Path) -> None:
    tasks: list[Data] = [
        {"evaluator": "perplexity", "task": "a", "files": ["texts/*.txt", "text.txt"]},
        {"evaluator": "classification", "task": "b", "data": "rows.csv"},
        {"evaluator": "function", "task": "c", "function": "own.py:score"},
        {"evaluator": "command", "task": "d", "command": "python own.py {model} base", "items": "names.txt"},
        {"evaluator": "command", "task": "e", "command": ["judge", "{model}"], "items": ["names.txt"]},
        {"task": "arc_easy"},
    ]
    data = {"include_path": "tasks", "tasks": tasks}
    found = absolute_paths({"evaluate": data, "builder": "own.py:make"}, place)
    read = found["evaluate"]["tasks"]
    assert found["builder"] == f"{place}/own.py:make"
    assert found["evaluate"]["include_path"] == f"{place}/tasks"
    assert read[0]["files"] == [f"{place}/texts/*.txt", f"{place}/text.txt"]
    assert read[1]["data"] == f"{place}/rows.csv"
    assert read[2]["function"] == f"{place}/own.py:score"
    assert read[3]["command"] == ["python", f"{place}/own.py", "{model}", "base"], "a folder may be a word"
    assert read[3]["items"] == f"{place}/names.txt"
    assert read[4:] == tasks[4:]


def test_options_of_other_evaluators_that_are_paths() -> None:
    class Options(EvaluatorOptions):
        rubric: Path | None = None
        judge: Annotated[str, OnDisk("code")] = "judge.py:ask"
        words: str = ""

    assert path_options(Options) == {"rubric": "path", "judge": "code"}


def test_soups_and_databases(place: Path) -> None:
    found = absolute_paths(
        {
            "soup": {"models": ["runs/checkpoint-*", "chat", "org/name"], "base": "base"},
            "search": {"storage": "sqlite:///s.db"},
        },
        place,
    )
    assert found["soup"] == {
        "models": [f"{place}/runs/checkpoint-*", f"{place}/chat", "org/name"],
        "base": f"{place}/base",
    }
    assert found["search"]["storage"] == f"sqlite:///{place}/s.db"
    assert absolute_paths({"search": {"artifacts": "some"}}, place)["search"]["artifacts"] == f"{place}/some"
    for url in ("s3://bucket/some", "file:///some", "/some"):
        assert absolute_paths({"search": {"artifacts": url}}, place)["search"]["artifacts"] == url
    for url in ("postgresql://host/name", "sqlite:///:memory:", "sqlite:////s.db", "mysql:///name"):
        assert absolute_paths({"search": {"storage": url}}, place)["search"]["storage"] == url


def test_a_folder_with_the_signs_of_patterns(place: Path) -> None:
    odd = place / "v[1] + more"
    shutil.copytree(place / "runs", odd / "runs")
    (odd / "a.txt").touch()
    found = absolute_paths({"soup": {"models": "runs/*"}}, odd)
    config = Config.model_validate({**SMALL, "soup": found["soup"]})
    assert config.soup
    assert config.soup.models == [str(odd / "runs" / f"checkpoint-{number}") for number in (1, 2)]
    assert recipe(odd, {"base_model": "runs"}) == {"base_model": f"{odd}/runs"}


SMALL: Data = {
    "evaluate": {"tasks": [{"task": "arc_easy"}], "split": {"search": 0.5, "test": 0.5}},
    "output": {"name": "small"},
}


def test_a_config_that_the_shell_has_opened_is_relative_to_the_current_folder() -> None:
    assert folder_of(Path("/dev/fd/63")) == Path()
    assert folder_of(Path("configs/my.yml")) == Path("configs")


def test_what_is_in_the_current_folder_alone_is_an_error(place: Path) -> None:
    Path("models/two").mkdir(parents=True)
    Path("own").mkdir()
    with pytest.raises(UserError) as error:
        absolute_paths({"recipe": {"base_model": "models/two"}, "evaluate": {"include_path": "own"}}, place)
    first, second = error.value.problems
    assert first.startswith("recipe.base_model: found 'models/two', which is in the current folder")
    assert (place / second.split()[-1]).resolve() == Path("own").resolve()


def test_values_of_the_command_line_are_relative_to_the_current_folder(place: Path) -> None:
    file = place / "my.yml"
    file.write_text(dump_yaml({**SMALL, "recipe": {"merge_method": "linear", "base_model": "base"}}))
    Path("other").mkdir()
    config = Config.read(file, values=["recipe.base_model=other", "evaluate.include_path=other"])
    assert config.recipe["base_model"] == str(Path.cwd() / "other")
    assert config.evaluate.include_path == str(Path.cwd() / "other")
    assert Config.read(file, storage="sqlite:///s.db").search.storage == f"sqlite:///{Path.cwd()}/s.db"


def test_a_dict_is_relative_to_the_current_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    config = Config.model_validate({**SMALL, "recipe": {"merge_method": "linear", "base_model": "base"}})
    assert config.recipe["base_model"] == str(place / "base")


def in_project(config: Data, models: Path, folder: Path) -> Path:
    """The config as a file, with the models and texts beside it."""
    shutil.copytree(models, folder / "models")
    shutil.copytree(Path(config["evaluate"]["tasks"][0]["files"][0]).parent, folder / "texts")
    text = dump_yaml(config).replace(str(models), "models")
    file = folder / "my.yml"
    file.write_text(text)
    data = read_yaml(file)
    data["evaluate"]["tasks"][0]["files"] = ["texts/*.txt"]
    data["search"] |= {"trials": 4, "levels": "none", "start": "none"}
    file.write_text(dump_yaml(data))
    return file


def test_a_run_goes_on_from_another_folder(
    config: Data, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = in_project(config, models, tmp_path / "project")
    monkeypatch.chdir(file.parent)
    first = mergesearch.run("my.yml", "runs")
    trials = first.trials
    monkeypatch.chdir(tmp_path)
    again = mergesearch.run("project/my.yml", "project/runs")
    assert again.verdict == first.verdict
    assert len(again.trials) == len(trials)
    read = mergesearch.Run.read("project/runs/small")
    read.recommended.write("merged")
    assert (tmp_path / "merged" / "model.safetensors").read_bytes() == (
        file.parent / "runs/small/model/model.safetensors"
    ).read_bytes()


def said(*arguments: object) -> str:
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert result.exit_code == 2, result.output
    return result.stderr


def test_a_near_miss_names_the_places(
    config: Data, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    config["recipe"]["base_model"] = "models/bsae"
    file = in_project(config, models, tmp_path / "project")
    error = said("check", file)
    assert f"recipe: models/bsae: is not in {file.parent}/models, beside the config" in error
    assert "did you mean 'base'?" in error
    assert "the Hugging Face Hub gave an error" in error


def test_a_recipe_alone_is_relative_to_the_current_folder(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    shutil.copytree(models, tmp_path / "models")
    file = tmp_path / "recipe.yml"
    file.write_text("merge_method: linear\nmodels:\n- {model: models/one, parameters: {weight: 1}}\n")
    error = said("merge", file, "out")
    assert f"{file}: models/one is beside the recipe, but paths in a recipe are relative to the current folder" in error
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(main, ["merge", "recipe.yml", "out"]).exit_code == 0
