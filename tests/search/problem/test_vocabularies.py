"""Searches over models whose vocabularies are equal, or not; with and without a tokenizer in the recipe."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mergesearch.errors import UserError
from mergesearch.merge_ops.recipe.vocabulary_config import TokenizerConfig
from mergesearch.search.config import Config
from mergesearch.search.problem.problem import Problem, open_problem

from ..helpers import go


def opened(config: dict[str, Any]) -> Problem:
    return open_problem(Config.model_validate(config), "config")


def renumbered(models: Path, out: Path, by: int, count: int = 30) -> str:
    """A copy of the model ``one`` whose first ``count`` tokens have other rows, in its tokenizer alone."""
    shutil.copytree(models / "one", out)
    content = json.loads((out / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    content["model"]["vocab"] = {t: (row + by) % count if row < count else row for t, row in vocabulary.items()}
    for token in content["added_tokens"]:
        token["id"] = content["model"]["vocab"][token["content"]]
    (out / "tokenizer.json").write_text(json.dumps(content))
    return str(out)


@pytest.mark.parametrize(
    "given",
    [
        {"tokenizer_source": "union"},
        {"tokenizer_source": "base"},
        {"tokenizer": {"source": "union"}},
        {"tokenizer": {"source": "base", "pad_to_multiple_of": 1}},
        {"tokenizer_source": "MODEL"},
    ],
    ids=str,
)
def test_a_tokenizer_that_changes_nothing_is_left_out(
    given: dict[str, Any], config: dict[str, Any], models: Path
) -> None:
    given = {key: str(models / "two") if value == "MODEL" else value for key, value in given.items()}
    plain = opened(config)
    config["recipe"] |= given
    problem = opened(config)
    assert problem.space.dimensions == plain.space.dimensions
    assert not any(start.recipe.vocabulary for start in problem.starts.values())


def test_a_search_with_a_tokenizer_that_changes_nothing(config: dict[str, Any], tmp_path: Path) -> None:
    config["recipe"]["tokenizer_source"] = "union"
    config["search"]["trials"] = 9
    assert go(config, tmp_path).trials == 9
    assert (tmp_path / "small" / "model" / "model.safetensors").exists()


@pytest.mark.parametrize(
    "given",
    [
        {"tokenizer": {"source": "base", "pad_to_multiple_of": 64}},
        {"tokenizer": {"source": "base", "tokens": {"a": {"source": {"kind": "zero"}, "force": True}}}},
    ],
    ids=str,
)
def test_a_tokenizer_that_changes_rows_is_that_of_all_candidates(given: dict[str, Any], config: dict[str, Any]) -> None:
    config["recipe"] |= given
    problem = opened(config)
    assert problem.tokenizer == TokenizerConfig.model_validate({**given["tokenizer"], "models": problem.references})
    assert all(start.recipe.vocabulary == problem.tokenizer for start in problem.starts.values())
    assert sorted(problem.standalone) == sorted(problem.references)


def test_other_vocabularies_need_a_tokenizer(config: dict[str, Any], models: Path, tmp_path: Path) -> None:
    moved = config["recipe"]["models"][0]["model"] = renumbered(models, tmp_path / "moved", 7)
    with pytest.raises(UserError, match=r"different vocabularies: \d+ of 30 rows.*`tokenizer_source: base`"):
        opened(config)
    config["recipe"]["tokenizer_source"] = "base"
    problem = opened(config)
    assert problem.warnings == []
    assert problem.standalone == [moved]


def test_all_models_count_in_a_search(config: dict[str, Any], models: Path, tmp_path: Path) -> None:
    config["recipe"]["models"][0]["model"] = renumbered(models, tmp_path / "moved", 7)
    config["recipe"]["tokenizer"] = {"source": "base", "models": [str(models / "base")]}
    with pytest.raises(UserError, match=r"tokenizer\.models: found .*base; leave it out: in a search all models count"):
        opened(config)


def test_a_few_renamed_tokens_are_a_warning(config: dict[str, Any], models: Path, tmp_path: Path) -> None:
    out = tmp_path / "renamed"
    shutil.copytree(models / "one", out)
    content = json.loads((out / "tokenizer.json").read_text())
    content["model"]["vocab"]["Z"] = content["model"]["vocab"].pop("z")
    (out / "tokenizer.json").write_text(json.dumps(content))
    config["recipe"]["models"][0]["model"] = str(out)
    (warning,) = opened(config).warnings
    assert "1 of 30 rows" in warning
    assert "'z' and 'Z'" in warning


def test_a_base_that_makes_other_tokens_is_no_choice(config: dict[str, Any], models: Path, tmp_path: Path) -> None:
    other = shutil.copytree(models / "base", tmp_path / "other")
    content = json.loads((other / "tokenizer.json").read_text())
    content["normalizer"] = {"type": "Lowercase"}
    (other / "tokenizer.json").write_text(json.dumps(content))
    config["recipe"]["base_model"] = {"search": [config["recipe"]["base_model"], str(other)]}
    with pytest.raises(UserError, match=r"base_model: .* differ in the tokens that their tokenizers make; the base"):
        opened(config)


def test_a_base_with_another_chat_template_is_a_choice_with_a_warning(
    config: dict[str, Any], models: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(models / "base", tmp_path / "other")
    base = config["recipe"]["base_model"]
    config["recipe"]["base_model"] = {"search": [base, str(other)]}
    assert not any("base_model" in line for line in opened(config).warnings)
    (other / "chat_template.jinja").write_text("{{ messages }}")
    [warning] = [line for line in opened(config).warnings if "base_model" in line]
    assert f"all candidates are scored with those of {base}" in warning
