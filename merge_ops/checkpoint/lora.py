"""LoRA adapters in PEFT's layout, applied to a checkpoint's tensors as they are read.

Hu et al., "LoRA: low-rank adaptation of large language models", arXiv:2106.09685: ``W' = W + s B A`` with s = α/r, or
α/√r (rank-stabilized, arXiv:2312.03732). DoRA (arXiv:2402.09353): ``W' = m (W + s B A) / ‖W + s B A‖``, row by row.
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
from mergesearch.text import quoted

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
    """The adapter's tensors for one tensor of the checkpoint, by their names in the adapter.

    Attributes:
        parts: A, B and, for DoRA, the magnitude.
        replacement: a tensor that replaces the checkpoint's.
    """

    parts: dict[str, str] = field(default_factory=dict)
    replacement: str | None = None


class Adapter:
    """A LoRA adapter for a checkpoint.

    Args:
        reference: the adapter's reference, for messages.
        folder: the adapter's folder.
        targets: the tensors of the checkpoint.

    Raises:
        UserError: the folder is not a supported adapter, or does not fit the checkpoint.
    """

    def __init__(self, reference: str, folder: Path, targets: Mapping[str, TensorInfo]) -> None:
        self._reference = reference
        self._targets = targets
        self._config = _read_config(reference, folder)
        self._file = TensorFile(_weights(reference, folder))
        self._updates = self._read_updates()

    @property
    def replaced(self) -> dict[str, TensorInfo]:
        """The tensors that the adapter replaces or adds, in the dtype of the checkpoint's tensor if it has one."""
        stored = {name: update.replacement for name, update in self._updates.items() if update.replacement}
        infos = {name: self._file.tensors[stored_name] for name, stored_name in stored.items()}
        return {
            name: TensorInfo(info.shape, self._targets[name].dtype if name in self._targets else info.dtype)
            for name, info in infos.items()
        }

    def applied(self, name: str, read: Callable[[], Tensor]) -> Tensor:
        """Returns the checkpoint's tensor with the adapter. Computed in float32, returned in the tensor's dtype.

        ``read`` reads the checkpoint's tensor.
        """
        update = self._updates.get(name)
        if update is None:
            return read()
        stored = update.replacement
        weight = self._file.read(stored).to(self.replaced[name].dtype) if stored else read()
        return self._changed(name, weight.float(), update).to(weight.dtype) if update.parts else weight

    def _changed(self, name: str, weight: Tensor, update: Update) -> Tensor:
        a, b, magnitude = (self._read_part(update, part) for part in ("A", "B", "magnitude"))
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

    def _read_part(self, update: Update, part: str) -> Tensor | None:
        return self._file.read(update.parts[part]).float() if part in update.parts else None

    def _scale(self, name: str, rank: int) -> float:
        module = name.rpartition(".")[0]
        patterns = self._config.get("alpha_pattern") or {}
        matching = (alpha for key, alpha in patterns.items() if re.fullmatch(rf"(?:.*\.)?(?:{key})", module))
        alpha = float(next(matching, self._config.get("lora_alpha", rank)))
        return alpha / (sqrt(rank) if self._config.get("use_rslora") else rank)

    def _read_updates(self) -> dict[str, Update]:
        updates: dict[str, Update] = {}
        unknown = []
        for stored in self._file.tensors:
            name, part = self._target(stored)
            if name is None:
                unknown.append(stored)
            elif part is None:
                updates.setdefault(name, Update()).replacement = stored
            else:
                updates.setdefault(name, Update()).parts[part] = stored
        if unknown:
            raise UserError(f"{self._reference}: the model has no tensor for the adapter's {listed(unknown)}")
        self._check(updates)
        return updates

    def _check(self, updates: Mapping[str, Update]) -> None:
        for name, update in updates.items():
            if update.parts and not {"A", "B"} <= update.parts.keys():
                raise UserError(f"{self._reference}: {name}: expected lora_A and lora_B, found {listed(update.parts)}")
            if "magnitude" in update.parts and len(self._targets[name].shape) != 2:
                shape = list(self._targets[name].shape)
                raise UserError(f"{self._reference}: {name}: DoRA is supported for matrices only, found shape {shape}")

    def _target(self, stored: str) -> tuple[str | None, str | None]:
        """Returns the name of the checkpoint's tensor, and the part of its update or None for a replacement."""
        module = WRAPPED.sub(".", stored.removeprefix(PREFIX))
        match = PART.search(module)
        if match is None:
            return self._find(module) or self._added(module), None
        part = "magnitude" if match[1] == "lora_magnitude_vector" else match[1][-1]
        return self._find(f"{module[: match.start()]}.weight"), part

    def _find(self, name: str) -> str | None:
        """Returns the checkpoint's name for a tensor. Either name may have an additional prefix such as ``model.``."""
        if name in self._targets:
            return name
        same_tail = self._by_tail.get(_tail(name), ())
        return next((own for own in same_tail if own.endswith(f".{name}") or name.endswith(f".{own}")), None)

    def _added(self, name: str) -> str | None:
        """Returns the name if it belongs to a module that only the adapter has, such as a classification head."""
        modules = self._config.get("modules_to_save") or ()
        return name if any(part in modules for part in name.split(".")) else None

    @cached_property
    def _by_tail(self) -> dict[str, list[str]]:
        tails: dict[str, list[str]] = {}
        for name in self._targets:
            tails.setdefault(_tail(name), []).append(name)
        return tails


def _tail(name: str) -> str:
    return ".".join(name.split(".")[-2:])


def _product(a: Tensor, b: Tensor, embedding: bool) -> Tensor:
    """Returns B A. Convolution kernels count as matrices. Embeddings are stored transposed."""
    delta = b.reshape(b.shape[0], -1) @ a.reshape(a.shape[0], -1)
    return delta.T if embedding else delta


def _read_config(reference: str, folder: Path) -> dict[str, Any]:
    file = folder / ADAPTER_CONFIG
    try:
        config = dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(f"{reference}: is not an adapter's folder: {error}") from None
    if config.get("peft_type", "LORA") != "LORA":
        raise UserError(f"{reference}: peft_type: found {quoted(config['peft_type'])}, expected 'LORA'")
    for key in UNSUPPORTED:
        if config.get(key):
            raise UserError(f"{reference}: {key}: is not supported; merge the adapter with PEFT first")
    return config


def _weights(reference: str, folder: Path) -> Path:
    file = folder / ADAPTER_WEIGHTS
    if not file.exists():
        raise UserError(f"{reference}: expected {ADAPTER_WEIGHTS}, found: {listed(f.name for f in folder.iterdir())}")
    return file
