"""How a model of sentence-transformers makes one embedding of the hidden states, as the model's folder says."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from mergesearch.errors import UserError, listed
from mergesearch.reading import read_json_object

Pooling = Literal["mean", "cls", "last"]
FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
"""The older form of ``pooling_mode``: one flag for each mode."""
MODES: dict[str, Pooling] = {"cls": "cls", "mean": "mean", "lasttoken": "last"}


HARMLESS = ("Transformer", "Pooling", "Normalize")
"""Modules that are read here, or that do not change a cosine."""


def other_modules(model: Any) -> list[str]:
    """The modules of sentence-transformers behind the encoder, in the model's folder, that are not applied here."""
    folder = getattr(model.config, "name_or_path", "")
    modules = sorted(path for path in Path(folder).glob("[0-9]*_[A-Z]*") if path.is_dir()) if folder else []
    return [str(path) for path in modules if not path.name.endswith(HARMLESS)]


def stored_pooling(model: Any) -> Pooling | None:
    """The pooling in ``1_Pooling/config.json`` of the folder that a transformers model was loaded from.

    Returns None if the folder has no such file. Raises UserError for a pooling that is not supported.
    """
    folder = getattr(model.config, "name_or_path", "")
    file = next(iter(sorted(Path(folder).glob("[0-9]*_Pooling/config.json"))), None) if folder else None
    if file is None:
        return None
    content = read_json_object(file)
    named = content.get("pooling_mode")
    modes = [named] if isinstance(named, str) else list(named or ())
    modes = modes or [mode for flag, mode in FLAGS.items() if content.get(flag)]
    if len(modes) != 1 or modes[0] not in MODES:
        found = listed(map(str, modes)) or "nothing"
        raise UserError(f"{file}: found the pooling {found}, expected one of cls, mean, lasttoken; set pooling")
    return MODES[modes[0]]
