"""``mergesearch init``: a first config that ``check`` passes, from answers, options, or another tool's config."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

from mergesearch.parsing import dump_yaml, read_yaml
from mergesearch.search.cli import main
from mergesearch.search.draft.models import Found, checkpoints_below, fit, likely_base
from mergesearch.search.problem.problem import open_problem, read_config

Data = dict[str, Any]


@pytest.fixture(autouse=True)
def project(models: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with models, texts, and a task of lm-eval; the current folder."""
    folder = tmp_path / "project"
    shutil.copytree(models, folder / "models")
    shutil.copytree(texts, folder / "texts")
    (folder / "tasks").mkdir()
    task: Data = {"dataset_path": "json", "test_split": "test"}
    task |= {"output_type": "multiple_choice", "doc_to_text": "{{q}}", "doc_to_target": "{{a}}"}
    task |= {"doc_to_choice": ["a", "b"], "metric_list": [{"metric": "acc_norm"}]}
    for name in ("mine", "other"):
        rows = folder / "tasks" / f"{name}.jsonl"
        rows.write_text("".join(f'{{"q": "{name} {n} abc", "a": {n % 2}}}\n' for n in range(24)))
        task["dataset_kwargs"] = {"data_files": {"test": str(rows)}}
        (folder / "tasks" / f"{name}.yaml").write_text(dump_yaml({"task": name, **task}))
    monkeypatch.chdir(folder)
    return folder


def init(*arguments: object, answers: str = "") -> Result:
    return CliRunner().invoke(main, ["init", *map(str, arguments)], input=answers)


def written(*arguments: object, answers: str = "") -> Data:
    """The config that is written, which is ready to run."""
    result = init("new.yml", *arguments, answers=answers)
    assert result.exit_code == 0, result.output
    open_problem(read_config(Path("new.yml")), "new.yml")
    data: Data = read_yaml(Path("new.yml"))
    return data


MODELS = ("--base", "models/base", "--model", "models/one", "--model", "models/two")
TASK = ("--task", "mine", "--include-path", "tasks")


def test_options_answer_everything() -> None:
    data = written(*MODELS, *TASK, "--task", "texts/*.txt", "--trials", 30)
    assert data["recipe"]["merge_method"] == {"search": ["task_arithmetic", "ties", "dare_ties"]}
    assert [entry["model"] for entry in data["recipe"]["models"]] == ["models/one", "models/two"]
    own, texts = data["evaluate"]["tasks"]
    assert own == {"task": "mine", "metric": "acc_norm"}
    assert texts == {"task": "texts", "evaluator": "bits_per_byte", "files": ["texts/*.txt"]}
    assert (data["search"]["trials"], data["output"]["name"]) == (30, "new")
    comments = [line for line in Path("new.yml").read_text().splitlines() if line.lstrip().startswith("#")]
    assert len(comments) >= 8
    assert max(map(len, comments)) <= 100


def test_questions_are_asked_for_the_rest() -> None:
    result = init("new.yml", answers="1\n\nmine_\nmine:acc_norm\n")
    assert "models/base" in result.output
    assert result.exit_code == 2, "there is no such task, and nobody to ask again"
    assert "there is no lm-eval task 'mine_'" in result.stderr
    data = written("--include-path", "tasks", answers="1\n\nmin\nmine, 'texts/*.txt'\n")
    assert [entry["task"] for entry in data["evaluate"]["tasks"]] == ["mine", "texts"]
    assert data["recipe"]["base_model"] == "models/base"
    assert [entry["model"] for entry in data["recipe"]["models"]] == ["models/one", "models/two"]


@pytest.mark.parametrize(("given", "option"), [((), "--base"), (MODELS[:2], "--model"), (MODELS, "--task")])
def test_what_is_missing_without_a_terminal(given: tuple[str, ...], option: str) -> None:
    result = init("new.yml", *given)
    assert result.exit_code == 2
    assert f"{option}: is missing, and there is no terminal" in result.stderr


def test_a_file_is_not_overwritten() -> None:
    Path("new.yml").write_text("mine")
    assert "--force overwrites it" in init("new.yml", *MODELS, *TASK).stderr
    assert Path("new.yml").read_text() == "mine"
    assert written(*MODELS, *TASK, "--force")["recipe"]


def test_without_a_base_models_are_averaged() -> None:
    data = written("--base", "none", *MODELS[2:], *TASK)
    assert data["recipe"]["merge_method"] == {"search": ["linear", "nuslerp"]}
    assert "base_model" not in data["recipe"]
    assert "expected two models" in init("b.yml", "--base", "none", "--model", "models/one", *TASK).stderr


def test_a_base_and_one_model() -> None:
    assert written(*MODELS[:4], *TASK)["recipe"]["merge_method"] == {"search": ["task_arithmetic", "ties"]}


def test_paths_are_relative_to_the_config(project: Path) -> None:
    result = init("configs/new.yml", *MODELS, *TASK)
    assert result.exit_code == 0, result.output
    data = read_yaml(Path("configs/new.yml"))
    assert data["recipe"]["base_model"] == "../models/base"
    assert data["evaluate"]["include_path"] == "../tasks"
    assert read_config(Path("configs/new.yml")).recipe["base_model"] == str(project / "models/base")


def test_models_that_do_not_fit_are_an_error() -> None:
    tensors = load_file("models/two/model.safetensors")
    name = next(name for name in tensors if name.endswith("mlp.down_proj.weight"))
    save_file(tensors | {name: tensors[name][:, :-1].contiguous()}, "models/two/model.safetensors", {"format": "pt"})
    assert not fit("models/base", "models/two")
    result = init("new.yml", *MODELS, *TASK)
    assert result.exit_code == 2
    assert name in result.stderr
    assert not Path("new.yml").exists()


def test_adapters_are_applied_to_the_base() -> None:
    adapter = Path("adapters/code")
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "models/base"}))
    result = init("new.yml", "--base", "none", "--model", "adapters/code", "--model", "models/one", *TASK)
    assert "adapters/code is a LoRA adapter: give --base" in result.stderr
    result = init("new.yml", *MODELS[:2], "--model", adapter, *TASK)
    assert "adapters/code is a LoRA adapter: it is applied to models/base" in result.output
    shutil.copytree("models/one", "runs/checkpoint-1")
    shutil.copytree("models/one", "results/runs/small/model")
    found = {each.path: each for each in checkpoints_below(Path.cwd())}
    assert list(found) == ["adapters/code", "models/base", "models/one", "models/two", "runs/checkpoint-1"]
    assert likely_base(list(found.values())) == "models/base"
    assert likely_base([found["models/one"], Found("adapters/chat", True, "org/name")]) == "org/name"
    assert likely_base([found["models/one"]]) is None
    assert (found["adapters/code"].is_adapter, found["adapters/code"].of) == (True, "models/base")


EVOLVE: Data = {
    "genome": {
        "models": ["models/one", "models/two", "models/base"],
        "merge_method": "dare_ties",
        "base_model": "models/base",
        "layer_granularity": 1,
        "allow_negative_weights": True,
        "filters": ["self_attn"],
    },
    "tasks": [
        {"name": "mine", "weight": 0.5, "metric": "acc_norm,none"},
        {"name": "other", "weight": -1, "metric": "acc_norm"},
    ],
    "limit": 10,
    "num_fewshot": 1,
    "shuffle": True,
    "random_init": True,
}


def evolve(**genome: Any) -> Data:
    Path("evolve.yml").write_text(dump_yaml({**EVOLVE, "genome": {**EVOLVE["genome"], **genome}}))
    return written("--from", "evolve.yml", "--include-path", "tasks")


def test_mergekit_evolve() -> None:
    data = evolve()
    recipe, evaluate = data["recipe"], data["evaluate"]
    assert (recipe["merge_method"], recipe["base_model"], recipe["dtype"]) == ("dare_ties", "models/base", "bfloat16")
    assert recipe["parameters"] == {"normalize": True}
    assert [entry["model"] for entry in recipe["models"]] == ["models/one", "models/two"]
    weight = {"search": [-0.5, 1.5], "layers": "each"}
    assert recipe["models"][0]["parameters"]["weight"] == [{"filter": "self_attn", "value": weight}, {"value": weight}]
    assert evaluate["tasks"] == [
        {"task": "mine", "metric": "acc_norm", "weight": 0.5, "num_fewshot": 1},
        {"task": "other", "metric": "acc_norm", "weight": 1.0, "num_fewshot": 1},
    ]
    assert (evaluate["limit"], data["search"]["trials"]) == (20, 100)
    text = " ".join(Path("new.yml").read_text().replace("#", " ").split())
    for note in (
        "random_init has no counterpart",
        "shuffle has no counterpart",
        "int8_mask",
        "the model has no chat template",
    ):
        assert note in text


def test_mergekit_evolve_by_groups_of_layers() -> None:
    def hole(**genome: Any) -> Any:
        Path("new.yml").unlink(missing_ok=True)
        return evolve(merge_method="linear", filters=None, **genome)["recipe"]["models"][0]["parameters"]["weight"]

    assert hole(layer_granularity=0, allow_negative_weights=False) == {"search": [0.0, 1.0]}
    assert hole(layer_granularity=2) == {"search": [-0.5, 1.0]}, "the models have two layers"
    assert hole(smooth=True) == {"search": [-0.5, 1.0], "curve": 2}


def test_mergekit_evolve_with_slerp() -> None:
    plain = {"merge_method": "slerp", "filters": None, "base_model": None}
    two = evolve(**plain, models=["models/one", "models/two"])["recipe"]
    assert two["parameters"]["t"] == {"search": [0.0, 1.0], "layers": "each"}
    assert [two["base_model"], *(entry["model"] for entry in two["models"])] == [
        "models/one",
        "models/one",
        "models/two",
    ]
    Path("new.yml").unlink()
    assert evolve(**plain)["recipe"]["merge_method"] == "multislerp"


GENETIC: Data = {
    "run_id": "my run",
    "pop_size": 5,
    "n_iter": 4,
    "models": {"it": "models/one", "en": "models/two", "xx": "models/base"},
    "base_model": "models/base",
    "path_to_store_config": "x",
    "additional_templates_folder": "tasks",
    "tasks": {"search": {"it": "mine", "base": "other"}, "test": {"it": "mine"}},
    "metric": "acc_norm",
    "seed": 42,
    "n_samples": 10,
    "mode": "gmpirt",
    "device": "cuda:2",
    "dtype": "float16",
    "eval_batch_size": 8,
    "load_in_4bit": True,
}


def genetic(**keys: Any) -> Data:
    Path("genetic.yml").write_text(dump_yaml({**GENETIC, **keys}))
    return written("--from", "genetic.yml")


def test_mergenetic() -> None:
    data = genetic()
    assert data["recipe"]["merge_method"] == "dare_ties"
    assert [entry["model"] for entry in data["recipe"]["models"]] == ["models/one", "models/two"]
    assert data["recipe"]["dtype"] == "float16"
    assert data["evaluate"]["tasks"] == [{"task": "mine", "metric": "acc_norm"}]
    assert (data["evaluate"]["include_path"], data["evaluate"]["batch_size"]) == ("tasks", 8)
    assert data["search"] == {"trials": 35, "seed": 42}
    assert (data["output"]["name"], data["device"]) == ("my-run", "auto")
    text = Path("new.yml").read_text()
    assert all(f"{key} has no counterpart" in text for key in ("mode", "path_to_store_config"))
    assert "n_samples: 10 has no counterpart" in text


def test_mergenetic_with_one_model_and_with_several_objectives() -> None:
    data = genetic(models=["models/one"], tasks=["mine", "other"])
    assert (data["recipe"]["merge_method"], data["evaluate"]["aggregate"]) == ("slerp", "pareto")
    Path("new.yml").unlink()
    data = genetic(tasks={"search": {"it": "mine"}, "test": {"it": "other"}})
    assert [entry["task"] for entry in data["evaluate"]["test_tasks"]] == ["other"]
    assert "split" not in data["evaluate"]


def test_numbers_of_a_recipe_become_holes() -> None:
    parameters: Data = {"weight": [{"filter": "mlp", "value": 0.7}, {"value": 2}], "density": [0.2, 0.5, 0.8]}
    models = [{"model": "models/one", "parameters": parameters}, {"model": "models/two", "parameters": {"weight": 0.5}}]
    recipe = {"merge_method": "ties", "base_model": "models/base", "parameters": {"normalize": True}, "models": models}
    Path("recipe.yml").write_text(dump_yaml(recipe))
    found = written("--from", "recipe.yml", *TASK)["recipe"]
    weight = [{"filter": "mlp", "value": {"search": [0.0, 1.5]}}, {"value": {"search": [0.0, 2.0]}}]
    assert found["models"][0]["parameters"] == {"weight": weight, "density": {"search": [0.1, 1.0], "curve": 3}}
    assert found["parameters"] == {"normalize": True}
    Path("new.yml").unlink()
    assert "has no tasks of lm-eval; name them with --task" in init("new.yml", "--from", "recipe.yml").stderr


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"a": 1}, "expected a config of mergekit-evolve"),
        ({"recipe": {}}, "is a config of mergesearch"),
        ({**EVOLVE, "genome": {"models": [], "merge_method": "sce"}}, "found 'sce', expected one of linear"),
        ({**EVOLVE, "genome": {"model": []}}, "genome: unknown key 'model'; did you mean 'models'?"),
        ({**EVOLVE, "tasks": 3}, "tasks: "),
        ({**EVOLVE, "tasks": [{"name": "mine", "weight": "much"}]}, "tasks[0].weight: "),
        ({**EVOLVE, "limit": "all"}, "limit: "),
        ({**GENETIC, "base_model": None}, "expected both"),
        ({**GENETIC, "pop_size": "many"}, "pop_size: "),
        ({**GENETIC, "tasks": {"search": ["mine"]}}, "tasks."),
        ({**GENETIC, "models": None}, "models."),
        ({"merge_method": "tie", "models": []}, "did you mean 'ties'?"),
        ({"merge_method": "ties", "models": 3, "base_model": "models/base"}, "models: found 3"),
    ],
)
def test_what_cannot_be_translated(data: Data, message: str) -> None:
    Path("other.yml").write_text(dump_yaml(data))
    assert message in init("new.yml", "--from", "other.yml", *TASK).stderr
