"""The folder of a result: the weights, and the files that transformers needs to load them."""

import json
from collections.abc import Iterable, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import torch

from mergesearch.errors import UserError, listed
from mergesearch.files import write_text
from mergesearch.merge_ops.assembly.assembly import Assembly
from mergesearch.merge_ops.assembly.merger import Merger
from mergesearch.merge_ops.checkpoint.architecture import architecture_of
from mergesearch.merge_ops.checkpoint.config_sections import FILES, check_files, edit, untied
from mergesearch.merge_ops.checkpoint.side_files import CARD
from mergesearch.merge_ops.checkpoint.weight_files import NAMED_IN_CONFIG
from mergesearch.merge_ops.inputs.chat_templates import chat_template, write_chat_template
from mergesearch.merge_ops.kernels.finite import is_finite, not_finite
from mergesearch.merge_ops.output import result_config
from mergesearch.merge_ops.output.card import Card
from mergesearch.merge_ops.output.loadable import check_layers
from mergesearch.merge_ops.output.parents import Parents
from mergesearch.merge_ops.output.result_config import TOKENIZER, SourceLayer
from mergesearch.merge_ops.output.writer import Writer, written_checkpoint
from mergesearch.merge_ops.recipe.layout import layer_counts, layer_of
from mergesearch.reading import read_json_object

RECIPE = "mergesearch_recipe.yml"
"""The file of a result with its recipe."""
RECOVERY = "mergesearch_recovery.json"
"""The file of a recovered result that says how it was recovered."""


def write_folder(  # noqa: PLR0913, PLR0917 - what a folder consists of
    assembly: Assembly,
    merger: Merger,
    out: Path,
    recipe_text: str | None = None,
    verify: bool = False,
    recovery: Mapping[str, Any] | None = None,
) -> None:
    """Writes the assembly's model to ``out``, completely or not at all.

    Args:
        assembly: the recipe's tensors.
        merger: the open checkpoints.
        out: the folder, which must not exist or be empty.
        recipe_text: the recipe to write beside the weights. By default it is the assembly's.
        verify: read the weights back from the disk.
        recovery: how the model was recovered.
    """
    recipe = assembly.recipe
    template, layered = _chat_template(assembly, merger), layered_config(assembly, merger)
    checkpoint = merger.checkpoints[assembly.layout.template]
    if checkpoint.folder is not None:
        check_files(checkpoint.folder, FILES[:1] if template is None else (FILES[0], TOKENIZER))
    if layered is not None:
        config, infos = checkpoint.config, merger.inputs[assembly.layout.template].tensors
        check_layers(checkpoint.reference, config, infos, layered, assembly.infos)
    with written_checkpoint(out, assembly.infos, checkpoint.weights.stem, verify) as writer:
        _write_weights(writer, assembly, merger)
        source = checkpoint.folder
        if source is not None:
            _write_side_files(writer, source, assembly, merger, layered)
        if template is not None:
            write_chat_template(writer.folder, template)
        text = recipe_text or recipe.to_yaml()
        write_text(writer.folder / RECIPE, text)
        if recovery:
            write_text(writer.folder / RECOVERY, json.dumps(recovery, indent=2) + "\n")
        write_text(writer.folder / CARD, card_of(writer.folder).with_title(out.name))


def card_of(folder: Path) -> Card:
    """The model card of a written result, from its recipe and its config."""
    parents = Parents.of((folder / RECIPE).read_text(encoding="utf-8"))
    config = read_json_object(folder / "config.json") if (folder / "config.json").exists() else {}
    recovery = read_json_object(folder / RECOVERY) if (folder / RECOVERY).exists() else {}
    return Card(parents.recipes[-1], parents, config, (folder / "modules.json").exists(), recovery)


def _write_weights(writer: Writer, assembly: Assembly, merger: Merger) -> None:
    with merger.read_ahead([assembly.reads(name) for name in writer.names]) as advance:
        for name, target in writer.tensors():
            advance()
            if stored := assembly.stored(name):
                assembly.check_inputs(name)
                writer.copy(stored)
                continue
            is_finite = assembly.write_tensor(name, target)
            if not (is_finite or merger.allows_nan):
                _check_result(name, target, assembly)


def _check_result(name: str, tensor: torch.Tensor, assembly: Assembly) -> None:
    """Raises UserError if a merged tensor is not finite, though the inputs are."""
    if is_finite(tensor):
        return
    dtype, inputs = tensor.dtype, listed(reference for reference, _ in assembly.layout.tensor_recipes[name].inputs)
    reason = f"values beyond the range of {str(dtype).removeprefix('torch.')}, ±{torch.finfo(dtype).max:.5g}"
    raise UserError(
        f"{name}: the merge of {inputs} has {not_finite(tensor)} ({reason}, become Inf); set dtype: bfloat16 or "
        "float32, choose other parameters, or give the option --allow-nan"
    )


def _chat_template(assembly: Assembly, merger: Merger) -> str | None:
    name = assembly.recipe.chat_template
    references = assembly.recipe.references
    folders = {r: c.tokenizer_folder for r, c in merger.checkpoints.items() if r in references}
    return chat_template(name, {r: folder for r, folder in folders.items() if folder}) if name else None


def _write_side_files(
    writer: Writer, source: Path, assembly: Assembly, merger: Merger, layered: dict[str, Any] | None
) -> None:
    checkpoint = merger.checkpoints[assembly.layout.template]
    writer.copy_side_files(source, checkpoint.tokenizer_folder or source)
    result_config.forget_places(writer.folder)
    if checkpoint.has_config:
        config = layered or checkpoint.config
        edit(writer.folder, lambda _: changed_config(config, assembly, merger))


def changed_config(config: dict[str, Any], assembly: Assembly, merger: Merger) -> dict[str, Any]:
    """Returns the config with the result's dtype and tied embeddings. Its layers must be the result's already."""
    config = {key: value for key, value in config.items() if key not in (NAMED_IN_CONFIG, *result_config.LOADED_FROM)}
    floats = [info.dtype for info in assembly.infos.values() if info.dtype.is_floating_point]
    if floats:
        # transformers loads all floats in the one dtype of the config: the widest loses nothing.
        config = result_config.with_dtype(config, reduce(torch.promote_types, floats))
    if merger.inputs[assembly.layout.template].untied.keys() & assembly.infos.keys():
        config = _untied(config, assembly.infos)
    return config


def _untied(config: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Returns the config of a model with separate embeddings.

    The key of the config is for all ties of a model. Where others remain (BERT's bias, T5's three embeddings) it stays
    as it is: transformers ties only what is equal.
    """
    known = architecture_of(config)
    tied = {name for group in known.tied for name in group} if known else set()
    stored = {live.name for live in known.live_names(names).values()} if known else set()
    return config if tied - stored else untied(config)


def layered_config(assembly: Assembly, merger: Merger) -> dict[str, Any] | None:
    """Returns the template's config for the layers of the result, or None if it needs no change.

    Raises:
        UserError: a config has no entry for a layer.
    """
    checkpoint = merger.checkpoints[assembly.layout.template]
    if assembly.recipe.models or not checkpoint.has_config:
        return None
    config, counts = checkpoint.config, layer_counts(assembly.layout.template_names)
    for stack, sources in _source_layers(assembly, merger).items():
        if stack in counts:
            config = result_config.with_layers(config, stack, counts[stack], sources)
    return config


def _source_layers(assembly: Assembly, merger: Merger) -> dict[str, list[SourceLayer]]:
    """Returns, for each stack, the source of every layer of the result: the base's layer, or the first model's."""
    counts = {reference: layer_counts(merger.inputs[reference].tensors) for reference in assembly.recipe.references}
    configs = {r: c.config if c.has_config else {} for r, c in merger.checkpoints.items() if r in counts}
    stacks: dict[str, dict[int, SourceLayer]] = {}
    for tensor_recipe in assembly.layout.tensor_recipes.values():
        model, source_name = tensor_recipe.inputs[0]
        layer, source = layer_of(tensor_recipe.name), layer_of(source_name)
        if layer and source:
            source_layer = SourceLayer(model, source[1], counts[model][source[0]], configs[model])
            stacks.setdefault(layer[0], {})[layer[1]] = source_layer
    return {stack: [layers[i] for i in sorted(layers)] for stack, layers in stacks.items()}
