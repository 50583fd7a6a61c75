"""The sections of a ``config.json``, such as ``text_config``, and changes that reach them too."""

from collections.abc import Callable, Mapping
from typing import Any

Json = dict[str, Any]


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
