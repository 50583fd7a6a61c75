"""Models whose JSON files are mutated, merged and checked: done, or refused with the folder's name, at once."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mergesearch.parsing import dump_yaml

from ..search.helpers import Data
from .command import ending
from .fuzzing import Draw, fuzz
from .mutations import json_of

SAMPLE, MANY = 6, 250
FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")


def merged(recipe: Data) -> tuple[str, ...]:
    """A merge that makes a new vocabulary, which loads all tokenizers."""
    recipe["tokenizer"] = {"source": "union"}
    Path("recipe.yml").write_text(dump_yaml({**recipe, "base_model": "model", "chat_template": "auto"}))
    return "merge", "recipe.yml", "out"


def checked(config: Data) -> tuple[str, ...]:
    config["recipe"]["base_model"] = "model"
    Path("config.yml").write_text(dump_yaml(config))
    return "check", "config.yml"


def scored(config: Data) -> tuple[str, ...]:
    Path("config.yml").write_text(dump_yaml(config))
    return "eval", "model", "config.yml"


COMMANDS: dict[str, tuple[str, Callable[[Data], tuple[str, ...]]]] = {
    "merge": ("recipe", merged),
    "check": ("config", checked),
    "eval": ("config", scored),
}
"""The data of a command's file, and what makes the command of it."""


def check(command: str, file: str, models: Path, data: Data, examples: int) -> None:
    shutil.copytree(models / "base", "model")
    words, content = COMMANDS[command][1](data), json.loads((models / "base" / file).read_text())
    assert ending(*words, seconds=60).kind == "done"

    def check_one(draw: Draw) -> None:
        shutil.rmtree("out", ignore_errors=True)
        Path("model", file).write_bytes(json_of(draw, content))
        result = ending(*words)
        assert result.kind in ("done", "refused"), result.text
        assert len(result.text) < 5000

    fuzz(check_one, examples)


@pytest.mark.parametrize("file", [*FILES, "special_tokens_map.json", "chat_template.jinja", "merges.txt"])
def test_a_pipe_in_the_place_of_a_file(file: str, models: Path, config: Data) -> None:
    shutil.copytree(models / "base", "model")
    Path("model", file).unlink(missing_ok=True)
    os.mkfifo(Path("model", file))
    recipe = {"merge_method": "linear", "models": [{"model": "model", "parameters": {"weight": 1}}]}
    Path("recipe.yml").write_text(dump_yaml(recipe))
    for words in (("merge", "recipe.yml", "out"), checked(config)):
        result = ending(*words)
        assert result.kind == "refused", result.text
        assert f"model/{file}: is a pipe, expected a file" in result.text


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("command", COMMANDS)
def test_some_models(command: str, file: str, models: Path, request: pytest.FixtureRequest) -> None:
    check(command, file, models, request.getfixturevalue(COMMANDS[command][0]), SAMPLE)


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("command", COMMANDS)
def test_many_models(command: str, file: str, models: Path, request: pytest.FixtureRequest) -> None:
    check(command, file, models, request.getfixturevalue(COMMANDS[command][0]), MANY)
