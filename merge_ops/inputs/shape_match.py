"""Checks whether checkpoints have the same tensors in the same shapes."""

from collections.abc import Callable, Collection, Mapping, Sequence

from mergesearch.errors import UserError, listed
from mergesearch.merge_ops.checkpoint.tensor_files import TensorInfo
from mergesearch.merge_ops.inputs.guessed_names import is_embedding
from mergesearch.merge_ops.recipe.layout import layer_of
from mergesearch.merge_ops.recipe.resolution import TensorRecipe

InfoOf = Callable[[str, str], TensorInfo | None]
"""From a checkpoint's reference and a tensor's name to the tensor's info, or None if there is no such tensor."""

VOCABULARY_HINT = (
    "if the vocabularies differ, set `tokenizer_source: base` (or union, or a model), which merges each token's rows "
    "of the embeddings; `on_mismatch` does not know of tokens"
)


def is_matched(tensor_recipe: TensorRecipe, info_of: InfoOf) -> bool:
    """Returns whether the template and all inputs have the tensor, in one shape."""
    infos = [info_of(*entry) for entry in tensor_recipe.shape_inputs]
    return None not in infos and len({info.shape for info in infos if info}) == 1


def check_match(
    tensor_recipes: Sequence[TensorRecipe], layouts: Mapping[str, Collection[str]], info_of: InfoOf, layers: bool
) -> None:
    """Checks that all checkpoints match.

    Args:
        tensor_recipes: every tensor of the result.
        layouts: each checkpoint's tensor names.
        info_of: the infos of the checkpoints' tensors.
        layers: whether the result must have all layers of every checkpoint. It must have all tensors outside the
            layers.

    Raises:
        UserError: some inputs lack tensors or differ in shape. The message lists these tensors.
    """
    mismatched = [entry for entry in tensor_recipes if not is_matched(entry, info_of)]
    problems = [_description(entry, info_of) for entry in mismatched] + _unused(tensor_recipes, layouts, layers)
    if problems:
        hint = f"{VOCABULARY_HINT}; " if any(is_embedding(entry.name) for entry in mismatched) else ""
        raise UserError(
            f"the checkpoints differ in {listed(problems)}; {hint}set `on_mismatch: base` in the recipe to take the "
            "base's tensors there, or `on_mismatch: overlap` to merge the part of each tensor that they have in common"
        )


def _description(tensor_recipe: TensorRecipe, info_of: InfoOf) -> str:
    owners: dict[str, list[str]] = {}
    for reference, source in tensor_recipe.inputs:
        info = info_of(reference, source)
        owners.setdefault(str(list(info.shape)) if info else "missing", []).append(reference)
    shapes = "; ".join(f"{shape} in {listed(references)}" for shape, references in owners.items())
    return f"{tensor_recipe.name} ({shapes})"


def _unused(tensor_recipes: Sequence[TensorRecipe], layouts: Mapping[str, Collection[str]], layers: bool) -> list[str]:
    """Describes the tensors of inputs that are not in the result."""
    result_names = {entry.name for entry in tensor_recipes}
    references = dict.fromkeys(reference for entry in tensor_recipes for reference, _ in entry.inputs)
    return [
        f"{name} (only in {reference})"
        for reference in references
        for name in layouts[reference]
        if name not in result_names and (layers or layer_of(name) is None)
    ]
