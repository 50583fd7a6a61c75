"""The sections of a ``config.json``, such as ``text_config``, and changes that reach them too."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mergesearch.files import write_text
from mergesearch.reading import read_json_object

Json = dict[str, Any]
FILES = ("config.json", "generation_config.json")
BY_TOKEN = ("vocab_size_per_layer_input",)
"""The keys of sizes beside ``vocab_size`` that count the tokens of texts."""


def edit(folder: Path, change: Callable[[Json], Json], files: Sequence[str] = FILES[:1]) -> None:
    """Applies ``change`` to the content of those files that exist."""
    for file in (folder / name for name in files):
        if file.exists():
            changed = change(read_json_object(file))
            write_text(file, json.dumps(changed, indent=2, ensure_ascii=False) + "\n")


def check_files(folder: Path, files: Sequence[str]) -> None:
    """Raises UserError, before anything is written, if one of the files that exist is no JSON object."""
    for file in (folder / name for name in files):
        if file.exists():
            read_json_object(file)


def each_section(config: Json, change: Callable[[Json], Json]) -> Json:
    """Applies ``change`` to the config and its sections."""
    return change({key: each_section(v, change) if is_section(key, v) else v for key, v in config.items()})


def sections(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Returns the config, and every mapping in it."""
    return [config, *(value for value in config.values() if isinstance(value, dict))]


def is_section(key: str, value: Any) -> bool:
    """Returns whether a value is the config of a part: ``text_config``, or ``encoder`` with a type of its own."""
    return isinstance(value, dict) and ("config" in key or "model_type" in value)


def untied(config: Json) -> Json:
    """Returns the config of a model with separate input and output embeddings."""

    def change(section: Json) -> Json:
        return {**section, "tie_word_embeddings": False} if "tie_word_embeddings" in section else section

    return {**each_section(config, change), "tie_word_embeddings": False}


def with_rows(config: Json, old: int, new: int) -> Json:
    """Returns the config with ``new`` in place of each ``vocab_size`` of ``old``."""

    def change(section: Json) -> Json:
        return {**section, "vocab_size": new} if section.get("vocab_size") == old else section

    return each_section(config, change)


def with_one_token_more(config: Json) -> Json:
    """Returns the config with one more token in the vocabulary of texts, and in those that depend on it."""
    sizes = {section["vocab_size"] for section in sections(config) if "vocab_size" in section}
    texts = config.get("vocab_size", max(sizes, default=None))

    def change(section: Json) -> Json:
        return {**section, **{k: v + 1 for k, v in section.items() if (k in BY_TOKEN or v == texts) and _is_size(k, v)}}

    return each_section(config, change)


def _is_size(key: str, value: object) -> bool:
    return "vocab_size" in key and type(value) is int
