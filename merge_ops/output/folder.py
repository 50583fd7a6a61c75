"""A result's folder: the weights, and what makes them loadable as the model that they now are."""

from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import torch

from mergesearch.files import write_text
from mergesearch.merge_ops.assembly.merger import Assembly, Merger
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.inputs.aligned_names import OUTPUT_EMBEDDING, tied_source
from mergesearch.merge_ops.inputs.tokenizer import chat_template, write_chat_template
from mergesearch.merge_ops.inputs.vocabulary import Vocabulary
from mergesearch.merge_ops.output import result_config
from mergesearch.merge_ops.output.card import model_card
from mergesearch.merge_ops.output.result_config import SourceLayer
from mergesearch.merge_ops.output.writer import Writer, written_checkpoint
from mergesearch.merge_ops.recipe.layout import heights, layer_of

TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model")


def write_folder(assembly: Assembly, merger: Merger, out: Path, text: str | None = None) -> None:
    """Writes the assembly's model to ``out``, whole or not at all; ``text`` is the recipe to keep beside it."""
    recipe = assembly.recipe
    template_text, layered = _chat_template(assembly, merger), layered_config(assembly, merger)
    with written_checkpoint(out, assembly.infos) as writer:
        for name, target in writer.tensors():
            assembly.write_tensor(name, target)
        source = merger.checkpoints[assembly.template].folder
        if source is not None:
            _write_sides(writer, source, assembly, merger, layered)
        if template_text is not None:
            write_chat_template(writer.folder, template_text)
        kept = text or recipe.to_yaml()
        write_text(writer.folder / "README.md", model_card(recipe, out.name, kept))
        write_text(writer.folder / "mergesearch_recipe.yml", kept)


def _chat_template(assembly: Assembly, merger: Merger) -> str | None:
    wish = assembly.recipe.chat_template
    folders = [c.folder for r, c in merger.checkpoints.items() if c.folder and r in assembly.recipe.references]
    return chat_template(wish, folders) if wish else None


def _write_sides(
    writer: Writer, source: Path, assembly: Assembly, merger: Merger, layered: dict[str, Any] | None
) -> None:
    writer.copy_side_files(source)
    result_config.edit(writer.folder, lambda config: changed_config(layered or config, assembly, merger))
    if assembly.vocabulary:
        _write_vocabulary(writer.folder, assembly.vocabulary, assembly.template)


def changed_config(config: dict[str, Any], assembly: Assembly, merger: Merger) -> dict[str, Any]:
    """The config, of the result's layers already, with the result's dtype and tying."""
    dtype = _widest(assembly)
    if dtype is not None:
        config = result_config.with_dtype(config, dtype)
    if any(map(OUTPUT_EMBEDDING.search, assembly.parts)) and _was_tied(merger, assembly.template):
        config = result_config.untied(config)
    return config


def _was_tied(merger: Merger, template: str) -> bool:
    """Whether the template shows as its output embedding what is its input embedding."""
    entry = merger.inputs[template]
    return bool(entry.shown_heads) or tied_source(entry) is not None


def _widest(assembly: Assembly) -> torch.dtype | None:
    """What a config calls the dtype of a model: the one that loses nothing."""
    floats = [info.dtype for info in assembly.infos.values() if info.dtype.is_floating_point]
    return reduce(torch.promote_types, floats) if floats else None


def layered_config(assembly: Assembly, merger: Merger) -> dict[str, Any] | None:
    """The template's config for the layers of the result; None where it needs no change. Raises UserError."""
    if assembly.recipe.models or not _has_config(merger.checkpoints[assembly.template]):
        return None
    config, before = merger.checkpoints[assembly.template].config, heights(assembly.template_names)
    for stack, sources in _sources(assembly, merger).items():
        if stack in before:
            config = result_config.with_layers(config, stack, before[stack], sources)
    return config


def _has_config(checkpoint: Checkpoint) -> bool:
    return checkpoint.folder is not None and (checkpoint.folder / "config.json").exists()


def _sources(assembly: Assembly, merger: Merger) -> dict[str, list[SourceLayer]]:
    """For each stack, where every layer of the result comes from: the base's, or the first model's."""
    tall = {reference: heights(merger.inputs[reference].tensors) for reference in assembly.recipe.references}
    configs = {r: c.config if _has_config(c) else {} for r, c in merger.checkpoints.items() if r in tall}
    found: dict[str, dict[int, SourceLayer]] = {}
    for part in assembly.parts.values():
        model, name = part.inputs[0]
        here, there = layer_of(part.name), layer_of(name)
        if here and there:
            layer = SourceLayer(model, there[1], tall[model][there[0]], configs[model])
            found.setdefault(here[0], {})[here[1]] = layer
    return {stack: [layers[i] for i in sorted(layers)] for stack, layers in found.items()}


def _write_vocabulary(folder: Path, vocabulary: Vocabulary, template: str) -> None:
    for file in (file for pattern in TOKENIZER_FILES for file in folder.glob(pattern)):
        file.unlink()
    vocabulary.tokenizer.save_pretrained(folder)
    number = _renumbering(vocabulary, template)
    result_config.edit(folder, lambda c: result_config.with_vocabulary(c, vocabulary.size, number), result_config.FILES)


def _renumbering(vocabulary: Vocabulary, template: str) -> Callable[[int], int]:
    """The new number of a token of the template; the old one where the token is gone."""
    tokens = {index: token for token, index in vocabulary.raw[template].items()}
    return lambda index: vocabulary.tokens.get(tokens.get(index, ""), index)
