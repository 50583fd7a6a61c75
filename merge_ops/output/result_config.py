"""The ``config.json`` of a result: the template's, with the keys that the merge changes.

Keys are found by their names, not by the architecture.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from mergesearch.errors import UserError
from mergesearch.merge_ops.checkpoint.config_sections import Json, edit, is_section
from mergesearch.merge_ops.inputs.model_config import LAYER_COUNT
from mergesearch.reading import read_json_object
from mergesearch.text import quoted

PER_LAYER = re.compile(r"layer|block|pattern|type|size|head|window|sparsity|activation|attention|mlp|moe|rope")
LAYER_INDICES = re.compile(r"_(?:layers|idxs?|indices|indexes|layer_ids|layers_idx)$")
LOADED_FROM = ("_name_or_path", "name_or_path")
"""Keys with the path that a model or tokenizer was loaded from, which is another one than the result."""
TOKENIZER = "tokenizer_config.json"


def forget_places(folder: Path) -> None:
    """Removes the path that the tokenizer was loaded from, which may be one of this machine, where it is recorded."""
    with suppress(UserError):  # what is no JSON is left as it is
        content = read_json_object(folder / TOKENIZER)
        if content.keys() & set(LOADED_FROM):
            edit(folder, lambda given: {k: v for k, v in given.items() if k not in LOADED_FROM}, (TOKENIZER,))


def with_dtype(config: Json, dtype: torch.dtype) -> Json:
    """Returns the config with ``dtype``, and without its old name ``torch_dtype``."""
    others = {key: value for key, value in config.items() if key != "torch_dtype"}
    return {**others, "dtype": str(dtype).removeprefix("torch.")}


@dataclass(frozen=True)
class SourceLayer:
    """The source of a layer of the result.

    Attributes:
        model: the reference of the model, for messages.
        index: the index of the layer in the model.
        count: the number of layers of the model's stack.
        config: the model's config.
    """

    model: str
    index: int
    count: int
    config: Json

    def section(self, key: str) -> "SourceLayer":
        """Returns the same layer with a section of the config, which is empty if there is none."""
        return replace(self, config=self.config.get(key) or {})

    def entry(self, key: str, template: list[Any]) -> Any:
        """Returns the layer's entry in a list of one entry per layer: the model's list, or the template's instead."""
        own = self.config.get(key)
        entries = own if isinstance(own, list) and len(own) == self.count else template
        if self.index >= len(entries):
            expected = f"expected one for each of {self.count} layers"
            raise UserError(f"{self.model}: config.json: {key}: found {quoted(own)}, {expected}")
        return entries[self.index]

    def is_in(self, key: str, template: list[Any]) -> bool:
        """Returns whether the layer's index is in a list of layers: the model's list, or the template's instead."""
        own = self.config.get(key)
        return self.index in (own if isinstance(own, list) else template)


def with_layers(config: Json, stack: str, old_count: int, sources: Sequence[SourceLayer]) -> Json:
    """Returns the config of a model whose stack of layers was replaced.

    Changes the number of layers, lists with one entry per layer, and lists of layer indices.

    Args:
        config: the template's config.
        stack: the name of the stack.
        old_count: its number of layers before.
        sources: the sources of its new layers.

    Raises:
        UserError: a list has no entry for a layer.
    """
    sections = {key: value for key, value in config.items() if is_section(key, value)}
    config = config | {
        key: with_layers(section, stack, old_count, [source.section(key) for source in sources])
        for key, section in sections.items()
    }
    if not any(_is_layer_count(key, value, stack, old_count) for key, value in config.items()):
        return config
    return {key: _relayered(key, value, stack, old_count, sources) for key, value in config.items()}


def _relayered(key: str, value: Any, stack: str, old_count: int, sources: Sequence[SourceLayer]) -> Any:
    if _is_layer_count(key, value, stack, old_count):
        return len(sources)
    if not isinstance(value, list) or key.endswith(("token_id", "token_ids", "architectures")):
        return value
    if LAYER_INDICES.search(key) and _are_layer_indices(value, old_count):
        return [index for index, source in enumerate(sources) if source.is_in(key, value)]
    if len(value) == old_count and PER_LAYER.search(key):
        return [source.entry(key, value) for source in sources]
    return value


def _is_layer_count(key: str, value: Any, stack: str, old_count: int) -> bool:
    """Returns whether a key is the number of layers of this stack, not of an encoder beside a decoder or vice versa."""
    other = {"encoder": "decoder", "decoder": "encoder"}
    is_others = any(part in key for word, part in other.items() if word in stack.split("."))
    return bool(LAYER_COUNT.match(key)) and value == old_count and not isinstance(value, bool) and not is_others


def _are_layer_indices(value: Sequence[Any], count: int) -> bool:
    are_integers = all(isinstance(entry, int) and not isinstance(entry, bool) for entry in value)
    return are_integers and all(a < b for a, b in pairwise([-1, *value, count]))
