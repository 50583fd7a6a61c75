"""LoRA adapters in PEFT's layout, applied to a checkpoint's tensors as they are read.

Hu et al., "LoRA: low-rank adaptation of large language models", arXiv:2106.09685: ``W' = W + s B A``, with s = α/r, or
α/√r (rank-stabilised, arXiv:2312.03732). DoRA (arXiv:2402.09353): ``W' = m (W + s B A) / ‖W + s B A‖``, per output.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import sqrt
from pathlib import Path
from typing import Any

from torch import Tensor

from mergesearch.errors import UserError, listed
from mergesearch.merge_ops.checkpoint.tensor_files import TensorFile, TensorInfo

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
PART = re.compile(r"\.(lora_(?:embedding_)?[AB]|lora_magnitude_vector)(?:\.weight)?$")
UNSUPPORTED = (
    "alora_invocation_tokens",
    "layer_replication",
    "lora_bias",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
)
WRAPPED = re.compile(r"\.(?:base_layer|modules_to_save|original_module)\.")


@dataclass
class Update:
    """The adapter's tensors for one of the checkpoint's: A, B and DoRA's magnitudes, or one that replaces it."""

    parts: dict[str, str] = field(default_factory=dict)
    replacement: str | None = None


class Adapter:
    """An adapter's folder, fitted to a checkpoint's tensors ``onto``; raises UserError where it does not fit."""

    def __init__(self, reference: str, folder: Path, onto: Mapping[str, TensorInfo]) -> None:
        self._reference = reference
        self._onto = onto
        self._config = _read_config(reference, folder)
        self._file = TensorFile(_weights(reference, folder))
        self._updates = self._fit()

    @property
    def replaced(self) -> dict[str, TensorInfo]:
        """The tensors that the adapter has whole; of the dtype that the checkpoint has them in."""
        whole = {name: update.replacement for name, update in self._updates.items() if update.replacement}
        infos = {name: self._file.tensors[stored] for name, stored in whole.items()}
        return {
            name: TensorInfo(info.shape, self._onto[name].dtype if name in self._onto else info.dtype)
            for name, info in infos.items()
        }

    def applied(self, name: str, read: Callable[[], Tensor]) -> Tensor:
        """The checkpoint's tensor, which ``read`` gives, with the adapter on it: computed in float32, in its dtype."""
        update = self._updates.get(name)
        if update is None:
            return read()
        whole = update.replacement
        weight = self._file.read(whole).to(self.replaced[name].dtype) if whole else read()
        return self._changed(name, weight.float(), update).to(weight.dtype) if update.parts else weight

    def _changed(self, name: str, weight: Tensor, update: Update) -> Tensor:
        a, b, magnitude = (self._part(update, part) for part in ("A", "B", "magnitude"))
        assert a is not None
        assert b is not None
        delta = self._scale(name, a.shape[0]) * _product(a, b, "lora_embedding_" in update.parts["A"])
        delta = delta.T if self._config.get("fan_in_fan_out") and delta.ndim == 2 else delta
        if delta.numel() != weight.numel():
            raise UserError(f"{self._reference}: {name}: found {list(delta.shape)}, expected {list(weight.shape)}")
        changed = weight + delta.reshape(weight.shape)
        return changed if magnitude is None else self._with_magnitude(changed, magnitude)

    def _with_magnitude(self, changed: Tensor, magnitude: Tensor) -> Tensor:
        rows = changed.T if self._config.get("fan_in_fan_out") else changed
        scaled: Tensor = rows * (magnitude.reshape(-1) / rows.norm(dim=1))[:, None]
        return scaled.T if self._config.get("fan_in_fan_out") else scaled

    def _part(self, update: Update, part: str) -> Tensor | None:
        stored = update.parts.get(part)
        return None if stored is None else self._file.read(stored).float()

    def _scale(self, name: str, rank: int) -> float:
        module = name.rpartition(".")[0]
        patterns = self._config.get("alpha_pattern") or {}
        fitting = (a for key, a in patterns.items() if re.fullmatch(rf"(?:.*\.)?(?:{key})", module))
        alpha = float(next(fitting, self._config.get("lora_alpha", rank)))
        return alpha / (sqrt(rank) if self._config.get("use_rslora") else rank)

    def _fit(self) -> dict[str, Update]:
        found: dict[str, Update] = {}
        unknown = []
        for stored in self._file.tensors:
            name, part = self._target(stored)
            if name is None:
                unknown.append(stored)
            elif part is None:
                found.setdefault(name, Update()).replacement = stored
            else:
                found.setdefault(name, Update()).parts[part] = stored
        if unknown:
            raise UserError(f"{self._reference}: the model has no tensor for the adapter's {listed(unknown)}")
        self._check(found)
        return found

    def _check(self, found: Mapping[str, Update]) -> None:
        for name, update in found.items():
            if update.parts and not {"A", "B"} <= update.parts.keys():
                raise UserError(f"{self._reference}: {name}: expected lora_A and lora_B, found {listed(update.parts)}")
            if "magnitude" in update.parts and len(self._onto[name].shape) != 2:
                raise UserError(f"{self._reference}: {name}: DoRA is read for matrices only")

    def _target(self, stored: str) -> tuple[str | None, str | None]:
        """The checkpoint's tensor that an adapter's belongs to, and its part (None: it replaces the tensor)."""
        module = WRAPPED.sub(".", stored.removeprefix(PREFIX))
        match = PART.search(module)
        if match is None:
            return self._find(module) or self._new(module), None
        part = "magnitude" if match[1] == "lora_magnitude_vector" else match[1][-1]
        return self._find(f"{module[: match.start()]}.weight"), part

    def _find(self, name: str) -> str | None:
        """The checkpoint's name for a module's, which may lack or have a prefix such as ``model.`` more."""
        if name in self._onto:
            return name
        return next((own for own in self._by_tail.get(_tail(name), ()) if _nested(own, name)), None)

    def _new(self, name: str) -> str | None:
        """A module that was saved whole and that the checkpoint has not: a head."""
        modules = self._config.get("modules_to_save") or ()
        return name if any(part in modules for part in name.split(".")) else None

    @cached_property
    def _by_tail(self) -> dict[str, list[str]]:
        tails: dict[str, list[str]] = {}
        for name in self._onto:
            tails.setdefault(_tail(name), []).append(name)
        return tails


def _tail(name: str) -> str:
    return ".".join(name.split(".")[-2:])


def _nested(one: str, two: str) -> bool:
    return one.endswith(f".{two}") or two.endswith(f".{one}")


def _product(a: Tensor, b: Tensor, embedding: bool) -> Tensor:
    """B A; convolutions' kernels as matrices, embeddings (stored the other way round) transposed."""
    delta = b.reshape(b.shape[0], -1) @ a.reshape(a.shape[0], -1)
    return delta.T if embedding else delta


def _read_config(reference: str, folder: Path) -> dict[str, Any]:
    file = folder / ADAPTER_CONFIG
    try:
        config = dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(f"{reference}: is not an adapter's folder: {error}") from None
    if config.get("peft_type", "LORA") != "LORA":
        raise UserError(f"{reference}: peft_type: found {config['peft_type']!r}, expected 'LORA'")
    for key in UNSUPPORTED:
        if config.get(key):
            raise UserError(f"{reference}: {key}: is not supported; merge the adapter with PEFT first")
    return config


def _weights(reference: str, folder: Path) -> Path:
    file = folder / ADAPTER_WEIGHTS
    if not file.exists():
        raise UserError(f"{reference}: expected {ADAPTER_WEIGHTS}, found: {listed(f.name for f in folder.iterdir())}")
    return file
