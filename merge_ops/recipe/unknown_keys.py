"""Keys of recipe files that mergekit ignores: they are left out, with a warning that has the nearest valid name."""

from collections.abc import Mapping
from typing import Any

from mergesearch.errors import nearest
from mergesearch.merge_ops.recipe.schema import ModelInput, OutputModule, OutputSlice, SliceSource
from mergesearch.merge_ops.recipe.vocabulary_config import TokenConfig, TokenizerConfig
from mergesearch.parsing import Strict
from mergesearch.say import Say
from mergesearch.text import quoted

MOST_WARNINGS = 20
"""How many unknown keys of one section are told."""

Sections = Mapping[str, type[Strict]]
LISTS: Mapping[str, Sections] = {
    "": {"models": ModelInput, "slices": OutputSlice},
    "OutputModule": {"models": ModelInput, "slices": OutputSlice},
    "OutputSlice": {"sources": SliceSource},
}
"""The lists of sections in each section, by the name of its class; "" is the recipe."""
NAMED: Mapping[str, Sections] = {"": {"modules": OutputModule}, "TokenizerConfig": {"tokens": TokenConfig}}
"""The sections with names."""


def without_unknown_keys(data: Any, valid: Mapping[str, object], where: str, warn: Say) -> Any:
    """Returns a recipe's data without unknown keys, in its sections too.

    Args:
        data: a document of a recipe file.
        valid: the valid keys of a recipe.
        where: the start of warnings.
        warn: gets a warning for each unknown key.
    """
    if not isinstance(data, dict):
        return data
    known = _inside("", _known(data, valid, where, warn), where, warn)
    if isinstance(known.get("tokenizer"), dict):
        known["tokenizer"] = _section(TokenizerConfig, known["tokenizer"], f"{where}: tokenizer", warn)
    return known


def _section(kind: type[Strict], data: Any, where: str, warn: Say) -> Any:
    if not isinstance(data, dict):
        return data
    return _inside(kind.__name__, _known(data, kind.model_fields, where, warn), where, warn)


def _inside(name: str, data: dict[str, Any], where: str, warn: Say) -> dict[str, Any]:
    for key, kind in LISTS.get(name, {}).items():
        if isinstance(data.get(key), list):
            data[key] = [_section(kind, entry, f"{where}: {key}[{i}]", warn) for i, entry in enumerate(data[key])]
    for key, kind in NAMED.get(name, {}).items():
        if isinstance(data.get(key), dict):
            data[key] = {n: _section(kind, each, f"{where}: {key}.{n}", warn) for n, each in data[key].items()}
    return data


def _known(data: Mapping[str, Any], valid: Mapping[str, object], where: str, warn: Say) -> dict[str, Any]:
    for name in [str(key) for key in data if key not in valid][:MOST_WARNINGS]:
        warn(f"{where}: unknown key {quoted(name)}{nearest(name, valid)}; it is ignored, as in mergekit")
    return {key: value for key, value in data.items() if key in valid}
