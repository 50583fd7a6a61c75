"""The result's ``config.json``: the template's, with what the merge changed. Keys are found by name, not by model."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mergesearch.errors import UserError
from mergesearch.files import write_text

LAYER_COUNT = re.compile(r"^(?:num_hidden_layers|n_layers?|num_layers|(?:num_)?(?:encoder|decoder)_layers)$")
PER_LAYER = re.compile(r"layer|block|pattern|type|size|head|window|sparsity|activation|attention|mlp|moe|rope")
LAYER_INDICES = re.compile(r"_(?:layers|idxs?|indices|indexes|layer_ids|layers_idx)$")
FILES = ("config.json", "generation_config.json")
Json = dict[str, Any]


def edit(folder: Path, change: Callable[[Json], Json], files: Sequence[str] = FILES[:1]) -> None:
    """Changes those of these files that are there."""
    for file in (folder / name for name in files):
        if file.exists():
            changed = change(json.loads(file.read_text(encoding="utf-8")))
            write_text(file, json.dumps(changed, indent=2, ensure_ascii=False) + "\n")


def with_dtype(config: Json, dtype: torch.dtype) -> Json:
    named = {key: value for key, value in config.items() if key != "torch_dtype"}
    return {**named, "dtype": str(dtype).removeprefix("torch.")}


def untied(config: Json) -> Json:
    """The embeddings are two tensors now."""
    return {**_each_part(config, _untied_part), "tie_word_embeddings": False}


def _untied_part(config: Json) -> Json:
    return {**config, "tie_word_embeddings": False} if "tie_word_embeddings" in config else config


def with_vocabulary(config: Json, size: int, number: Callable[[int], int]) -> Json:
    """The config with a vocabulary of ``size`` rows; ``number`` gives a token's new number for its old one."""
    before = config.get("vocab_size")

    def change(part: Json) -> Json:
        return {key: _renumbered(key, value, before, size, number) for key, value in part.items()}

    return _each_part(config, change)


def _renumbered(key: str, value: Any, before: Any, size: int, number: Callable[[int], int]) -> Any:
    if key == "vocab_size" and (before is None or value == before):
        return size
    if not key.endswith("_token_id"):
        return value
    if isinstance(value, list):
        return [number(entry) for entry in value]
    return number(value) if isinstance(value, int) else value


@dataclass(frozen=True)
class SourceLayer:
    """Where a layer of the result comes from: a layer of a model with this config and so many layers."""

    model: str
    index: int
    height: int
    config: Json

    def part(self, key: str) -> "SourceLayer":
        """The same with the config's part of that name; empty where there is none."""
        return replace(self, config=self.config.get(key) or {})

    def entry(self, key: str, template: list[Any]) -> Any:
        """The layer's entry in the model's list of one for each layer; in the template's where the model has none."""
        own = self.config.get(key)
        known = own if isinstance(own, list) and len(own) == self.height else template
        if self.index >= len(known):
            expected = f"expected one for each of {self.height} layers"
            raise UserError(f"{self.model}: config.json: {key}: found {own!r}, {expected}")
        return known[self.index]

    def is_in(self, key: str, template: list[Any]) -> bool:
        """Whether the layer's number is in the model's list of layers; in the template's where the model has none."""
        own = self.config.get(key)
        return self.index in (own if isinstance(own, list) else template)


def with_layers(config: Json, stack: str, before: int, sources: Sequence[SourceLayer]) -> Json:
    """The config of a model whose ``stack`` of ``before`` layers became one from the layers ``sources``.

    The number of layers, lists with an entry for each layer, and lists of the numbers of some layers. Raises UserError
    for a layer that no list has an entry for.
    """
    parts = {key: value for key, value in config.items() if _is_part(key, value)}
    made = config | {
        key: with_layers(part, stack, before, [source.part(key) for source in sources]) for key, part in parts.items()
    }
    if not any(_counts(key, value, stack, before) for key, value in made.items()):
        return made
    return {key: _relayered(key, value, stack, before, sources) for key, value in made.items()}


def _relayered(key: str, value: Any, stack: str, before: int, sources: Sequence[SourceLayer]) -> Any:
    if _counts(key, value, stack, before):
        return len(sources)
    if not isinstance(value, list) or key.endswith(("token_id", "token_ids", "architectures")):
        return value
    if len(value) == before and PER_LAYER.search(key):
        return [source.entry(key, value) for source in sources]
    if LAYER_INDICES.search(key) and _are_layers(value, before):
        return [place for place, source in enumerate(sources) if source.is_in(key, value)]
    return value


def _counts(key: str, value: Any, stack: str, before: int) -> bool:
    other = {"encoder": "decoder", "decoder": "encoder"}
    of_another = any(part in key for word, part in other.items() if word in stack.split("."))
    return bool(LAYER_COUNT.match(key)) and value == before and not isinstance(value, bool) and not of_another


def _are_layers(value: Iterable[Any], before: int) -> bool:
    return all(isinstance(entry, int) and not isinstance(entry, bool) and 0 <= entry < before for entry in value)


def _each_part(config: Json, change: Callable[[Json], Json]) -> Json:
    """The config and those in it (``text_config``), changed."""
    return change({key: _each_part(v, change) if _is_part(key, v) else v for key, v in config.items()})


def _is_part(key: str, value: Any) -> bool:
    return isinstance(value, dict) and "config" in key
