"""The model card of a merged model: what a hub shows, and the recipe that rebuilds it."""

from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.parsing import dump_yaml


def model_card(recipe: Recipe, title: str, text: str) -> str:
    """Markdown with the hub's metadata on top; ``text`` is the recipe as it is kept."""
    metadata = {
        "library_name": "transformers",
        "tags": ["merge", "mergesearch"],
        "base_model": recipe.references,
    }
    models = "\n".join(f"* {reference}" for reference in recipe.references if reference != recipe.base_model)
    base = f", from the base `{recipe.base_model}`" if recipe.base_model else ""
    return (
        f"---\n{dump_yaml(metadata)}---\n# {title}\n\n"
        f"Merged with mergesearch by `{recipe.merge_method}` "
        f"({recipe.method.paper}){base}:\n\n{models}\n\n"
        f"The recipe rebuilds it:\n\n```yaml\n{text}```\n"
    )
