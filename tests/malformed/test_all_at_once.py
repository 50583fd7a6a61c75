"""All mistakes of a file are told at once, one line each, in the order of the file."""

import copy
from pathlib import Path
from typing import Any

import pytest

from mergesearch.errors import Problems, UserError
from mergesearch.parsing import dump_yaml

from .command import ending

Data = dict[str, Any]


def problems(command: str, data: Data | str, *more: str) -> list[str]:
    """What the command says of the file x.yml, line by line, without its name."""
    Path("x.yml").write_text(data if isinstance(data, str) else dump_yaml(data))
    result = ending(command, "x.yml", *more)
    assert result.kind == "refused", result.text
    return [line.removeprefix("error: x.yml: ") for line in result.errors]


def test_mistakes_in_every_section_of_a_config(config: Data) -> None:
    data = copy.deepcopy(config)
    data["search"] |= {"trails": 10, "sampler": "cmeas", "seed": -1}
    data["evaluate"]["batch_size"] = 0
    data["evaluate"]["split"]["search"] = "half"
    data["output"]["name"] = "a/b"
    data["recipe"]["models"][0]["parameters"]["weight"]["curve"] = 1
    data["recipe"]["models"][0]["parameters"]["density"]["search"] = [2, 1]
    data["recipe"]["models"][1]["model"]["search"][0] = "missing/one"
    data["recipe"]["base_model"] = "missing/two"
    lines = problems("check", data)
    said = [
        "evaluate.split.search: found 'half'",
        "evaluate.batch_size: found 0",
        "search.sampler: there is no sampler 'cmeas'; did you mean 'cmaes'?",
        "search.seed: found -1",
        "search: unknown key 'trails'; did you mean 'trials'?",
        "output.name: found 'a/b'",
        "missing/two",
        "missing/one",
        "recipe: models[0].parameters.weight.curve: found 1",
        "recipe: models[0].parameters.density",
    ]
    assert len(lines) == len(said)
    for line, part in zip(lines, said, strict=True):
        assert part in line


def test_mistakes_in_the_recipe_and_the_tasks_of_a_config(config: Data) -> None:
    data = copy.deepcopy(config)
    data["recipe"] |= {"dytpe": "float32", "merge_method": {"search": ["ties"]}}
    data["recipe"]["models"][0]["parameters"]["densty"] = {"search": [0, 1]}
    data["evaluate"]["tasks"][0]["files"] = ["nothing/*.txt"]
    data["evaluate"]["tasks"].append({"evaluator": "perplexity", "task": "x", "files": ["missing.txt"]})
    lines = problems("check", data)
    for part in ("densty", "unknown key 'dytpe'; did you mean 'dtype'?", "nothing/*.txt", "missing.txt"):
        assert sum(part in line for line in lines) == 1
    assert len(lines) == 4


def test_mistakes_in_one_task(config: Data) -> None:
    config["evaluate"]["tasks"][0] |= {"weight": -1, "fils": "x", "metric": "accuracy", "normalize": 3}
    lines = problems("check", config)
    assert all(line.startswith("evaluate.tasks[0]: ") for line in lines)
    for part in ("fils", "metric", "weight", "normalize"):
        assert sum(part in line.removeprefix("evaluate.tasks[0]: ").split(":")[0] + line for line in lines) >= 1
    assert len(lines) == 4


def test_mistakes_in_a_recipe(recipe: Data) -> None:
    recipe["parameters"] |= {"normalize": "perhaps"}
    recipe["models"][0]["parameters"] |= {"density": 2.0}
    recipe["tokenizer_source"] = "union"
    lines = problems("merge", recipe, "out")
    for part in ("normalize", "density", "tokenizer_source"):
        assert sum(part in line.split(": found ")[0] for line in lines) == 1
    assert len(lines) == 3


def test_mistakes_in_the_keys_of_a_recipe(recipe: Data) -> None:
    recipe |= {"dtype": "float31", "frozen": 3, "chat_template": ["x"], "on_mismatch": "skip"}
    lines = problems("merge", recipe, "out")
    keys = [line.split(":")[0].split(";")[0] for line in lines]
    assert keys == ["dtype", "chat_template", "frozen", "on_mismatch"]


def test_mistakes_in_several_documents_of_a_recipe() -> None:
    first, second = "merge_method: linaer\nmodels: [{model: a}]\nname: a\n", "merge_method: ties\nmodels: 3\n"
    lines = problems("merge", f"{first}---\n{second}", "out")
    assert lines[0].startswith("document 1: merge_method: there is no method 'linaer'")
    assert lines[1].startswith("document 2: models: found 3")


def test_all_checkpoints_that_are_not_there(recipe: Data) -> None:
    recipe |= {"base_model": "missing/base", "tokenizer": None}
    recipe["models"][0]["model"] = "missing/one"
    Path("x.yml").write_text(dump_yaml(recipe))
    lines = ending("merge", "x.yml", "out").text.splitlines()
    assert ["missing/base" in lines[0], "missing/one" in lines[1], len(lines)] == [True, True, 2]


def test_all_mistakes_beside_a_soup(models: Path, config: Data) -> None:
    soup = {"models": [str(models / "one"), str(models / "two")], "kinds": ["unifrom"], "bsae": "x"}
    lines = problems("check", {"soup": soup, "evaluate": config["evaluate"], "search": {"seed": "x"}, "device": "gpu"})
    for part in ("soup: unknown key 'bsae'; did you mean 'base'?", "soup.kinds[0]: found 'unifrom'", "seed", "device"):
        assert sum(part in line for line in lines) == 1
    assert len(lines) == 4


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("search", "trials", True),
        ("search", "trials", 10**30),
        ("search", "trials", -5),
        ("search", "trials", 1.5),
        ("search", "trials", "many"),
        ("search", "trials", float("nan")),
        ("search", "target", float("inf")),
        ("search", "soups", "uniform"),
        ("search", "timeout", "soon"),
        ("search", "timeout", "1.2.3h"),
        ("search", "timeout", "9" * 400),
        ("search", "seed", False),
        ("evaluate", "batch_size", True),
        ("evaluate", "tasks", "text"),
        ("evaluate", "tasks", ["text"]),
        ("evaluate", "constraints", {"task": "text"}),
        ("output", "name", ""),
        ("output", "name", "."),
        ("output", "name", ".."),
        ("output", "name", "../x"),
        ("output", "name", "a\0b"),
        ("output", "name", "a\nb"),
        ("output", "name", "x" * 300),
    ],
)
def test_values_out_of_range(config: Data, section: str, key: str, value: object) -> None:
    config[section][key] = value
    assert len(problems("check", config)) == 1


def test_what_does_not_depend_on_a_mistake_goes_on() -> None:
    problems = Problems()

    def fails(*lines: str) -> None:
        raise UserError(*lines)

    assert problems.attempt(int, "3") == 3
    problems.attempt(fails, "one", "two")
    problems.attempt(fails, "two", "three")
    with pytest.raises(UserError) as caught:
        problems.check()
    assert caught.value.problems == ("one", "two", "three")
