"""Model cards: metadata that the Hugging Face Hub reads, and a recipe that rebuilds the model."""

from pathlib import Path

from huggingface_hub import ModelCard

from mergesearch.merge_ops.engine.documents import merge_file
from mergesearch.merge_ops.engine.engine import merge
from mergesearch.merge_ops.methods import METHODS
from mergesearch.merge_ops.recipe.recipe import Recipe

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


def rebuilt(card: ModelCard, tmp_path: Path) -> bytes:
    """The weights that the card's recipe gives."""
    file = tmp_path / "from_card.yml"
    file.write_text(card.text.split("```yaml\n")[1].split("```")[0])
    merge_file(file, tmp_path / "rebuilt")
    return (tmp_path / "rebuilt" / "model.safetensors").read_bytes()


def test_the_hub_reads_the_metadata(tmp_path: Path) -> None:
    merge(Recipe.read(recipe_data(METHODS["ties"], BASE, TUNED)), tmp_path / "my-model")
    card = card_in(tmp_path / "my-model")
    assert card.data.base_model == [BASE, *TUNED]
    assert card.data.tags == ["merge", "mergesearch"]
    assert card.data.library_name == "transformers"


def test_the_text_names_method_paper_base_and_models(tmp_path: Path) -> None:
    merge(Recipe.read(recipe_data(METHODS["ties"], BASE, TUNED)), tmp_path / "my-model")
    heading, method, *models = card_in(tmp_path / "my-model").text.strip().split("\n\n")
    assert heading == "# my-model"
    assert "`ties`" in method
    assert "https://arxiv.org/abs/2306.01708" in method
    assert f"`{BASE}`" in method
    assert models[0].splitlines() == [f"* `{model}`" for model in TUNED]


def test_the_recipe_rebuilds_the_same_bytes(tmp_path: Path) -> None:
    merge(Recipe.read(recipe_data(METHODS["dare_ties"], BASE, TUNED)), tmp_path / "out")
    assert rebuilt(card_in(tmp_path / "out"), tmp_path) == (tmp_path / "out" / "model.safetensors").read_bytes()


def test_a_recipe_of_several_documents_rebuilds_the_same_bytes(tmp_path: Path) -> None:
    recipes = [Recipe.read(data) for data in (FIRST, LAST)]
    (tmp_path / "recipe.yml").write_text("---\n".join(recipe.to_yaml() for recipe in recipes))
    merge_file(tmp_path / "recipe.yml", tmp_path / "out")
    assert rebuilt(card_in(tmp_path / "out"), tmp_path) == (tmp_path / "out" / "model.safetensors").read_bytes()
