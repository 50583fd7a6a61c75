"""Checks of a config's recipe that need the checkpoints, or the whole space."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mergesearch.errors import UserError, listed
from mergesearch.merge_ops.inputs.aligned_names import AlignedCheckpoint
from mergesearch.merge_ops.inputs.labels import label_orders
from mergesearch.merge_ops.inputs.model_config import config_differences
from mergesearch.merge_ops.inputs.standalone import tokenizer_difference, used_otherwise
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.space.model_choices import named_references
from mergesearch.search.space.space import Space
from mergesearch.text import quoted

POST_NORM = "post_feedforward_layernorm"


def referenced_checkpoints(recipe: Mapping[str, Any]) -> list[str]:
    """Every checkpoint that a candidate may name, the template first. Raises UserError."""
    _check_entries(recipe)
    references = named_references(recipe)
    for reference in references:
        if not isinstance(reference, str):
            raise UserError(f"recipe: found the model {quoted(reference)}, expected a path or {{search: [paths]}}")
    return references


def _check_entries(recipe: Mapping[str, Any]) -> None:
    models = recipe.get("models")
    if models is None and ("slices" in recipe or "modules" in recipe):
        return
    if not isinstance(models, list) or not models:
        raise UserError(f"recipe: models: found {quoted(models)}, expected a list of {{model, parameters}}")
    named = [isinstance(entry, dict) and isinstance(entry.get("model"), str | dict) for entry in models]
    wrong, expected = [n for n, is_named in enumerate(named) if not is_named], "expected {model: path, parameters}"
    if wrong:
        raise UserError(*(f"recipe: models[{n}]: found {quoted(models[n])}, {expected}" for n in wrong))


def possible_templates(space: Space, recipe: Mapping[str, Any], references: Sequence[str]) -> list[str]:
    """Returns the checkpoints that may give a candidate its config: the bases, or without one the first models."""
    models = recipe.get("models")
    if space.bases or not isinstance(models, list):
        return list(space.bases)
    is_fixed = isinstance(models[0]["model"], str) and "include" not in models[0] and "order" not in recipe
    return [] if is_fixed else list(references)


def check_same_computation(inputs: Sequence[AlignedCheckpoint]) -> list[str]:
    """Compares the checkpoints that may be the template: the live model has the config and tokenizer of the first one.

    Args:
        inputs: the checkpoints that may be the template.

    Returns:
        A warning for each that is used otherwise.

    Raises:
        UserError: one computes otherwise, or makes other tokens.
    """
    return list(filter(None, (_used_otherwise(inputs[0], other) for other in inputs[1:])))


def _used_otherwise(first: AlignedCheckpoint, other: AlignedCheckpoint) -> str | None:
    differing = [f"config.json: {key}" for key in config_differences(first.checkpoint, other.checkpoint)]
    differing += ["config.json: id2label"] if label_orders({"": first, other.reference: other}) else []
    if tokenizer_difference(first.checkpoint, other.checkpoint) == "tokens":
        differing.append("the tokens that their tokenizers make")
    if differing:
        raise UserError(
            f"recipe: base_model: {first.reference} and {other.reference} differ in {listed(differing)}; the base (the "
            "first model, if there is none) can be a choice only among models that compute alike; set base_model to "
            "one of them"
        )
    if not used_otherwise(first.checkpoint, other.checkpoint):
        return None
    return (
        f"recipe: base_model: {first.reference} and {other.reference} differ in chat template, generation settings or "
        f"special tokens: all candidates are scored with those of {first.reference}, and written with those of their "
        "base"
    )


def check_seams(space: Space, names: Sequence[str]) -> None:
    """Raises UserError where a factor at a seam would change nothing: it scales what writes to the residual stream."""
    writers = space.stack.writers if space.stack else ()
    for writer in writers:
        if not any(writer in name for name in names):
            raise UserError(f"recipe: slices.search.scale.tensors: no tensor has {writer!r} in its name")
    normed = [name for name in names if POST_NORM in name]
    if writers and normed and not any(writer in name for name in normed for writer in writers):
        raise UserError(
            f"recipe: slices.search.scale: the models normalise what a layer writes ({normed[0]}), so that a factor "
            "on its last weights changes nothing; leave scale out"
        )


def check_layer_ranges(space: Space, assemble: Callable[[Recipe], object]) -> None:
    """Raises UserError where an end of a searched ``layer_range`` is not there, or sources differ in length."""
    for point in space.corners(space.methods[0]):
        try:
            assemble(space.fill(space.methods[0], point))
        except UserError as error:
            raise UserError(f"{error}; some values of the searched layer_range give this") from None
