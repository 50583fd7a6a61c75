"""Checks of a config's recipe that need the checkpoints, or the whole space."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mergesearch.errors import UserError, listed
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.space.model_choices import named_references
from mergesearch.search.space.space import Space
from mergesearch.text import quoted

BESIDE_THE_WEIGHTS = frozenset({"_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures"})
"""Keys of config.json that do not change how the model computes."""
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
    for index, entry in enumerate(models):
        if not isinstance(entry, dict) or not isinstance(entry.get("model"), str | dict):
            raise UserError(f"recipe: models[{index}]: found {quoted(entry)}, expected {{model: path, parameters}}")


def check_same_computation(checkpoints: Sequence[Checkpoint]) -> None:
    """Raises UserError where checkpoints that may be the base compute differently: the live model has one config."""
    loaded = [checkpoint.config if checkpoint.has_config else {} for checkpoint in checkpoints]
    configs = [{k: v for k, v in config.items() if k not in BESIDE_THE_WEIGHTS} for config in loaded]
    for checkpoint, config in zip(checkpoints[1:], configs[1:], strict=True):
        differing = [key for key in {**configs[0], **config} if configs[0].get(key) != config.get(key)]
        if differing:
            raise UserError(
                f"recipe: base_model: {checkpoints[0].reference} and {checkpoint.reference} differ in their "
                f"config.json: {listed(differing)}; a base can be a choice only among models that compute alike"
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
