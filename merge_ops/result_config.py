"""The result's ``config.json``: the template's, with what the merge changed. Keys are found by name, not by model."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

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


def with_layers(config: Json, stack: str, before: int, sources: Sequence[int]) -> Json:
    """The config of a model whose ``stack`` of ``before`` layers became one from the layers ``sources``.

    The number of layers, lists with an entry for each layer, and lists of the numbers of some layers.
    """

    def change(part: Json) -> Json:
        if not any(_counts(key, value, stack, before) for key, value in part.items()):
            return part
        return {key: _relayered(key, value, stack, before, sources) for key, value in part.items()}

    return _each_part(config, change)


def _relayered(key: str, value: Any, stack: str, before: int, sources: Sequence[int]) -> Any:
    if _counts(key, value, stack, before):
        return len(sources)
    if not isinstance(value, list) or key.endswith(("token_id", "token_ids", "architectures")):
        return value
    if len(value) == before and PER_LAYER.search(key):
        return [value[i] for i in sources]
    if LAYER_INDICES.search(key) and _are_layers(value, before):
        return [place for place, source in enumerate(sources) if source in value]
    return value


def _counts(key: str, value: Any, stack: str, before: int) -> bool:
    other = {"encoder": "decoder", "decoder": "encoder"}
    of_another = any(part in key for word, part in other.items() if word in stack.split("."))
    return bool(LAYER_COUNT.match(key)) and value == before and not isinstance(value, bool) and not of_another


def _are_layers(value: Iterable[Any], before: int) -> bool:
    return all(isinstance(entry, int) and not isinstance(entry, bool) and 0 <= entry < before for entry in value)


def _each_part(config: Json, change: Callable[[Json], Json]) -> Json:
    """The config and those in it (``text_config``), changed."""
    parts = {key: _each_part(v, change) if isinstance(v, dict) and "config" in key else v for key, v in config.items()}
    return change(parts)
