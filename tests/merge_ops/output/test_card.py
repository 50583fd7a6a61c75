"""Model cards: metadata that the Hugging Face Hub reads, and a recipe that rebuilds the model."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from mergesearch.merge_ops.engine.documents import merge_file
from mergesearch.merge_ops.engine.engine import merge
from mergesearch.merge_ops.methods import METHODS
from mergesearch.merge_ops.output.parents import Parents, is_hub_name
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.merge_ops.recipe.vocabulary_config import TokenizerConfig

from ..helpers import INPUTS, recipe_data

BASE = str(INPUTS / "base")
TUNED = [str(INPUTS / name) for name in ("ft1", "ft2", "ft3")]
FIRST = {
    "name": "first",
    "merge_method": "linear",
    "models": [{"model": m} for m in TUNED[:2]],
    "parameters": {"weight": 1},
}
LAST = {
    "merge_method": "task_arithmetic",
    "base_model": BASE,
    "models": [{"model": "first"}],
    "parameters": {"weight": 1},
}


def card_in(folder: Path) -> ModelCard:
    return ModelCard.load(folder / "README.md")


def copied(tmp_path: Path, name: str, metadata: dict[str, Any] | None = None, **config: object) -> str:
    """A copy of the base with a card and more keys in its config."""
    folder = tmp_path / name
    shutil.copytree(INPUTS / "base", folder)
    if metadata is not None:
        (folder / "README.md").write_text(f"---\n{json.dumps(metadata)}\n---\n\n# {name}\n")
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **config}))
    return str(folder)


def linear(*models: str) -> Recipe:
    entries = [{"model": model, "parameters": {"weight": 1.0}} for model in models]
    return Recipe.read({"merge_method": "linear", "models": entries})


def merged(tmp_path: Path, *models: str) -> ModelCard:
    merge(linear(*models), tmp_path / "out")
    return card_in(tmp_path / "out")


def test_the_hub_reads_the_metadata(tmp_path: Path) -> None:
    merge(Recipe.read(recipe_data(METHODS["ties"], BASE, TUNED)), tmp_path / "my-model")
    data = card_in(tmp_path / "my-model").data
    assert data.tags == ["merge", "mergesearch", "mergekit-compatible", "ties"]
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-generation")
    assert data.base_model is None, "the models are not on the Hub"


def test_the_text_names_method_paper_base_and_models(tmp_path: Path) -> None:
    merge(Recipe.read(recipe_data(METHODS["ties"], BASE, TUNED)), tmp_path / "my-model")
    heading, method, _, table, *_ = card_in(tmp_path / "my-model").text.strip().split("\n\n")
    assert heading == "# my-model"
    assert "`ties`" in method
    assert "https://arxiv.org/abs/2306.01708" in method
    assert "base `base`" in method
    names = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
    assert names == ["`base`", "`ft1`", "`ft2`", "`ft3`"]


def test_no_path_of_this_machine_is_in_the_card(tmp_path: Path) -> None:
    recipe = {**recipe_data(METHODS["ties"], BASE, TUNED), "tokenizer_source": TUNED[0]}
    merge(Recipe.read(recipe), tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "tokenizer_source: ft1" in text
    assert str(INPUTS) not in text
    assert str(tmp_path) not in text


def test_the_recipe_rebuilds_the_same_bytes_with_the_paths_of_the_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge(Recipe.read(recipe_data(METHODS["dare_ties"], BASE, TUNED)), tmp_path / "out")
    (tmp_path / "r.yml").write_text(card_in(tmp_path / "out").text.split("```yaml\n")[1].split("```")[0])
    monkeypatch.chdir(INPUTS)
    merge_file(tmp_path / "r.yml", tmp_path / "rebuilt")
    rebuilt, first = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("rebuilt", "out"))
    assert rebuilt == first


def test_models_whose_tokens_count_have_names_too() -> None:
    one, two = "/data/models/one", "/data/models/two"
    entries = [{"model": one}, {"model": two, "align": "weights"}]
    recipe = Recipe.read({"merge_method": "linear", "models": entries, "parameters": {"weight": 1}})
    named = recipe.model_copy(update={"tokenizer": TokenizerConfig(models=recipe.references)})
    text = Parents.of(named.to_yaml()).recipe_text
    assert "/data" not in text
    written = Recipe.read(yaml.safe_load(text))
    assert written.vocabulary
    assert written.vocabulary.models == written.references


def test_a_recipe_of_several_documents_rebuilds_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes = [Recipe.read(data) for data in (FIRST, LAST)]
    (tmp_path / "recipe.yml").write_text("---\n".join(recipe.to_yaml() for recipe in recipes))
    merge_file(tmp_path / "recipe.yml", tmp_path / "out")
    card = card_in(tmp_path / "out")
    assert card.data.tags[-2:] == ["linear", "task_arithmetic"]
    (tmp_path / "r.yml").write_text(card.text.split("```yaml\n")[1].split("```")[0])
    monkeypatch.chdir(INPUTS)
    merge_file(tmp_path / "r.yml", tmp_path / "rebuilt")
    rebuilt, first = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("rebuilt", "out"))
    assert rebuilt == first


def test_the_card_is_the_same_wherever_it_is_written(tmp_path: Path) -> None:
    for place in ("a", "b"):
        merge(linear(*TUNED), tmp_path / place / "out")
    one, two = ((tmp_path / place / "out" / "README.md").read_bytes() for place in ("a", "b"))
    assert one == two


def test_names_on_the_hub_come_from_cache_clone_card_and_config(tmp_path: Path) -> None:
    cached = copied(tmp_path / "models--org--cached/snapshots", "0a1b")
    cloned = copied(tmp_path, "cloned")
    (Path(cloned) / ".git").mkdir()
    (Path(cloned) / ".git/config").write_text('[remote "origin"]\n\turl = https://huggingface.co/org/cloned.git\n')
    tuned = copied(tmp_path, "tuned", {"base_model": ["org/base", str(tmp_path)]}, _name_or_path="org/ignored")
    other = copied(tmp_path, "other", _name_or_path="org/older")
    card = merged(tmp_path, cached, cloned, tuned, other)
    assert card.data.base_model == ["org/cached", "org/cloned", "org/base", "org/older"]
    assert card.data["base_model_relation"] == "merge"
    assert "model: org/cached@0a1b" in card.text
    assert "model: tuned" in card.text
    assert str(tmp_path) not in card.content


@pytest.mark.parametrize(
    ("name", "is_name"),
    [("org/model-7B.v2", True), ("results/model", False), ("org/checkpoint-100", False), ("/abs/model", False)],
)
def test_paths_of_other_machines_are_no_names_on_the_hub(name: str, is_name: bool) -> None:
    assert is_hub_name(name) == is_name


def test_models_of_one_name_are_told_apart(tmp_path: Path) -> None:
    paths = [copied(tmp_path / place, "model") for place in ("a", "b")]
    assert [parent.name for parent in Parents([linear(*paths)]).parts.values()] == ["model", "model-2"]
    assert "model: model-2" in merged(tmp_path, *paths).text


@pytest.mark.parametrize(
    ("cards", "license_"),
    [
        (({"license": "mit"}, {"license": "mit"}), ("mit", None)),
        (({"license": "mit"}, {"license": "apache-2.0"}), ("other", "licenses-of-the-merged-models")),
        (({"license": "mit"}, {}), (None, None)),
        (({"license": "mit"}, None), (None, None)),
        (({"license": "other", "license_name": "own"},) * 2, ("other", "own")),
    ],
)
def test_the_licence_is_that_of_all_models(
    tmp_path: Path, cards: tuple[dict[str, Any], ...], license_: tuple[str | None, str | None]
) -> None:
    card = merged(tmp_path, *(copied(tmp_path, f"m{n}", metadata) for n, metadata in enumerate(cards)))
    assert (card.data.license, card.data.license_name) == license_
    assert ("licences of the merged models differ" in card.text) == (license_[1] == "licenses-of-the-merged-models")


def test_the_languages_are_those_of_all_models(tmp_path: Path) -> None:
    given = [{"language": "en"}, {"language": ["de", "en"]}, {"language": 3}]
    card = merged(tmp_path, *(copied(tmp_path, f"m{n}", metadata) for n, metadata in enumerate(given)))
    assert card.data.language == ["en", "de"]


@pytest.mark.parametrize("header", ["---\n- 1\n---\n", "---\na: [\n---\n", "---\na: &a [*a]\n---\n", "", "\xff"])
def test_a_card_that_cannot_be_read_says_nothing(tmp_path: Path, header: str) -> None:
    model = copied(tmp_path, "m")
    (Path(model) / "README.md").write_bytes(header.encode("latin-1"))
    assert merged(tmp_path, model).data.license is None


def test_a_copy_is_not_called_a_merge(tmp_path: Path) -> None:
    model = copied(tmp_path / "models--org--cached/snapshots", "0a1b")
    card = merged(tmp_path, model)
    assert card.data.tags == ["mergesearch"]
    assert card.data.base_model == ["org/cached"]
    assert "base_model_relation" not in card.data
    assert "as it is: nothing is merged" in card.text


def test_no_file_says_where_a_model_was_loaded_from(tmp_path: Path) -> None:
    model = Path(copied(tmp_path, "m", _name_or_path=str(tmp_path)))
    (model / "tokenizer_config.json").write_text(json.dumps({"name_or_path": str(tmp_path), "model_max_length": 8}))
    merge(linear(str(model)), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text()) == {"model_max_length": 8}
    assert str(tmp_path) not in (tmp_path / "out" / "config.json").read_text()


def test_a_name_on_the_hub_has_the_card_in_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "models--org--name"
    folder = Path(copied(cache / "snapshots", "0a1b", {"license": "mit", "language": "en"}))
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0a1b")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(folder))
    card = merged(tmp_path, "org/name", BASE)
    assert card.data.base_model == ["org/name"]
    assert "[org/name](https://huggingface.co/org/name) | on the Hub | mit |" in card.text
    assert card.data.license is None, "that of the other model is not known"
