"""The model card of a merged model: metadata for the Hugging Face Hub, and the recipe that rebuilds the model."""

from typing import TYPE_CHECKING

from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.text import as_code, as_code_block, as_heading

if TYPE_CHECKING:
    from huggingface_hub import ModelCard


def model_card(recipe: Recipe, title: str, recipe_text: str) -> "ModelCard":
    """Returns the card of a recipe's result.

    Args:
        recipe: the recipe of the result.
        title: the heading.
        recipe_text: the recipe as it is written beside the card, with all documents of its file.
    """
    from huggingface_hub import ModelCard, ModelCardData

    metadata = ModelCardData(library_name="transformers", tags=["merge", "mergesearch"], base_model=recipe.references)
    return ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n# {as_heading(title)}\n\n{_text(recipe, recipe_text)}")


def _text(recipe: Recipe, recipe_text: str) -> str:
    models = "\n".join(f"* {as_code(reference)}" for reference in recipe.references if reference != recipe.base_model)
    base = f", with the base {as_code(recipe.base_model)}" if recipe.base_model else ""
    return (
        f"Merged with mergesearch by {as_code(recipe.merge_method)} ({recipe.method.paper}){base}:\n\n{models}\n\n"
        f"This recipe rebuilds the model:\n\n{as_code_block(recipe_text, 'yaml')}"
    )
