"""Checks whether checkpoints have the same tensors in the same shapes."""

from collections.abc import Callable, Collection, Mapping, Sequence

from mergesearch.errors import UserError, listed
from mergesearch.merge_ops.checkpoint.tensor_files import TensorInfo
from mergesearch.merge_ops.inputs.guessed_names import is_embedding
from mergesearch.merge_ops.recipe.layout import layer_counts, layer_of
from mergesearch.merge_ops.recipe.resolution import TensorRecipe

InfoOf = Callable[[str, str], TensorInfo | None]
"""From a checkpoint's reference and a tensor's name to the tensor's info, or None if there is no such tensor."""

MISMATCH_HINT = (
    "set `on_mismatch: base` in the recipe to take the base's tensors there, or `on_mismatch: overlap` to merge the "
    "part of each tensor that they have in common"
)
VOCABULARY_HINT = (
    "the models have different numbers of tokens: set `tokenizer_source: base` (or union, or a model) or `tokenizer` "
    "in the recipe to merge each token's rows"
)

FORM_HINT = (
    "matrices are missing inside layers: a file has them in another form, fused or split, or is not whole; load each "
    "model with transformers and save it again"
)


def is_matched(tensor_recipe: TensorRecipe, info_of: InfoOf) -> bool:
    """Returns whether the template and all inputs have the tensor, in one shape."""
    infos = [info_of(*entry) for entry in tensor_recipe.shape_inputs]
    return None not in infos and len({info.shape for info in infos if info}) == 1


def check_kinds(tensor_recipe: TensorRecipe, info_of: InfoOf) -> None:
    """Raises UserError if a tensor has floats in one input and integers in another: these are codes, not weights."""
    infos = {reference: info_of(reference, source) for reference, source in tensor_recipe.inputs}
    kinds = {reference: info.dtype for reference, info in infos.items() if info}
    if len({dtype.is_floating_point for dtype in kinds.values()}) > 1:
        found = listed(f"{str(dtype).removeprefix('torch.')} in {reference}" for reference, dtype in kinds.items())
        raise UserError(f"{tensor_recipe.name}: found {found}; expected floats in all models, or integers in all")


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
        UserError: some inputs lack tensors or differ in shape. The message lists these tensors, and what may help.
    """
    differing = [entry for entry in tensor_recipes if not is_matched(entry, info_of)]
    problems = [_description(entry, info_of) for entry in differing] + _unused(tensor_recipes, layouts, layers)
    if not problems:
        return
    if len(problems) * 2 > len(tensor_recipes):
        hint = "most tensors differ: these are not fine-tunes of one model, which alone can be merged"
    elif layers and _have_different_depths(layouts):
        hint = "they have different numbers of layers: choose layers with `slices` in the recipe"
    elif len(problems) == len(differing) and _are_vocabularies(differing, info_of):
        hint = VOCABULARY_HINT
    elif any(_lacks_matrix(entry, info_of) for entry in differing):
        hint = FORM_HINT
    else:
        hint = MISMATCH_HINT
    raise UserError(f"the checkpoints differ in {listed(problems)}; {hint}")


def _have_different_depths(layouts: Mapping[str, Collection[str]]) -> bool:
    first, *others = map(layer_counts, layouts.values())
    return any(counts[stack] != first[stack] for counts in others for stack in counts.keys() & first.keys())


def _are_vocabularies(differing: Sequence[TensorRecipe], info_of: InfoOf) -> bool:
    """Returns whether the tensors are embeddings for different numbers of tokens, and biases with as many values."""
    rows = set()
    for entry in differing:
        infos = [info for info in (info_of(*key) for key in entry.shape_inputs) if info and info.shape]
        if len(infos) < len(entry.shape_inputs) or len({info.shape[1:] for info in infos}) > 1:
            return False
        rows.add(tuple(info.shape[0] for info in infos))
    return len(rows) == 1 and any(is_embedding(entry.name) for entry in differing)


def _lacks_matrix(tensor_recipe: TensorRecipe, info_of: InfoOf) -> bool:
    """Returns whether an input lacks a matrix inside a layer that another input has."""
    infos = [info_of(*entry) for entry in tensor_recipe.shape_inputs]
    is_matrix = any(info and len(info.shape) > 1 for info in infos)
    return None in infos and is_matrix and layer_of(tensor_recipe.name) is not None


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
