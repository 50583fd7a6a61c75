"""Checkpoints on disk or the Hugging Face Hub, read tensor by tensor, with a LoRA adapter if the reference has one."""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mergesearch.errors import UserError, listed, located
from mergesearch.merge_ops.checkpoint.adapters.adapter import Adapter
from mergesearch.merge_ops.checkpoint.adapters.config import ADAPTER_CONFIG, read_adapter_config
from mergesearch.merge_ops.checkpoint.adapters.keys import is_factor
from mergesearch.merge_ops.checkpoint.architecture import architecture_of
from mergesearch.merge_ops.checkpoint.locations import locate
from mergesearch.merge_ops.checkpoint.references import ModelReference, parse_reference
from mergesearch.merge_ops.checkpoint.side_files import VOCABULARIES, side_files
from mergesearch.merge_ops.checkpoint.tensor_files import StoredBytes, TensorInfo
from mergesearch.merge_ops.checkpoint.weight_files import USUAL_NAMES, WeightFiles, find_weights
from mergesearch.reading import read_json_object
from mergesearch.text import quoted

LAYERS, MOST_LAYERS = re.compile("layers?$|depth$"), 100_000
"""The keys of config.json with a number of layers, and the largest number."""
CONFIG_KEYS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "architectures": (lambda v: isinstance(v, list) and all(isinstance(name, str) for name in v), "a list of names"),
    "model_type": (lambda v: isinstance(v, str), "a name"),
    "vocab_size": (lambda v: type(v) is int and v > 0, "a whole number above 0"),
    "tie_word_embeddings": (lambda v: isinstance(v, bool), "true or false"),
}
"""What the keys of ``config.json`` that are read here may be, beside null."""


class Checkpoint:
    """A Hugging Face folder with safetensors (one file or shards), or one ``.safetensors`` file.

    Only headers are read on opening. Each call of ``tensor`` reads one tensor and applies the adapter to it.

    Args:
        reference: the checkpoint's reference in recipes.
        named_paths: the paths of models that references name otherwise than by path, such as those that an earlier
            document of a recipe file makes. A whole reference may have one, with its adapter.
    """

    def __init__(self, reference: str, named_paths: Mapping[str, Path] | None = None) -> None:
        self.reference = reference
        self._named_paths = named_paths or {}
        self._parsed = ModelReference(reference) if reference in self._named_paths else parse_reference(reference)
        self.path = self._locate(self._parsed.model)

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        """Every tensor by name, sorted by name."""
        tensors = self._adapter.tensors if self._adapter else self._stored
        return dict(sorted(tensors.items()))

    @property
    def stored_dtypes(self) -> dict[str, str]:
        """The dtype of every stored tensor as its file names it, supported or not; without the adapter."""
        return {name: file.stored_dtypes[name] for name, file in self.weights.file_of.items()}

    def tensor(self, name: str) -> Tensor:
        """Reads one tensor to the CPU."""
        return self._adapter.tensor(name) if self._adapter else self._read(name)

    def stored(self, name: str) -> StoredBytes | None:
        """Returns the place of a tensor's bytes, or None if there is an adapter."""
        return None if self._adapter else self.weights.file_of[name].stored(name)

    def may_have_copies(self) -> bool:
        """Returns whether two of the tensors may be copies of each other. Those with equal samples are read."""
        return self._adapter is not None or any(map(self._has_copies, self.similar_tensors()))

    def _has_copies(self, names: Sequence[str]) -> bool:
        digests = {tensors_digest([("", self._read(name))]) for name in names}
        return len(digests) < len(names)

    def samples(self) -> dict[str, bytes]:
        """Returns a few bytes from the middle of every stored tensor, without the adapter."""
        owner = self.weights.file_of
        found = ((name, file, sample) for file in set(owner.values()) for name, sample in file.samples().items())
        return {name: sample for name, file, sample in found if owner.get(name) is file}

    def similar_tensors(self) -> list[list[str]]:
        """Returns groups of stored tensors that have the same bytes in the middle, so that they may be copies.

        Vectors that are constant there (fresh biases and norms) do not count.
        """
        samples = self.samples()
        groups: dict[tuple[TensorInfo, bytes], list[str]] = {}
        for name, info in self.tensors.items():
            sample = samples.get(name, b"")
            if len(info.shape) > 1 or not _is_constant(sample, info.dtype.itemsize):
                groups.setdefault((info, sample), []).append(name)
        return [names for names in groups.values() if len(names) > 1]

    def digest(self) -> str:
        """Returns the SHA-256 of all tensors' names and bytes, in the order of the names."""
        return tensors_digest((name, self.tensor(name)) for name in self.tensors)

    @property
    def has_adapter(self) -> bool:
        """Whether the reference has an adapter."""
        return self._parsed.adapter is not None

    @property
    def warnings(self) -> list[str]:
        """What of the adapter's file has no effect, one line."""
        ignored = self._adapter.ignored if self._adapter else []
        outside = (
            f"{len(ignored)} tensors of the adapter are for modules that target_modules (with exclude_modules and "
        )
        text = f"{self.reference}: {outside}layers_to_transform) does not name; they are ignored, as by PEFT: "
        return [text + listed(ignored)] if ignored else []

    @property
    def without_adapter(self) -> "Checkpoint":
        """The checkpoint that the adapter is applied to, which is what transformers can load."""
        plain = str(ModelReference(self._parsed.model))
        return Checkpoint(plain, self._named_paths) if self.has_adapter else self

    @property
    def paths(self) -> list[Path]:
        """The folder or file of the model, and the adapter's folder if the reference has an adapter."""
        adapter = self._parsed.adapter
        return [self.path, *([self._locate(adapter)] if adapter else [])]

    @property
    def folder(self) -> Path | None:
        """The folder of config and tokenizer, or None if the checkpoint is a single file."""
        return self.path if self.path.is_dir() else None

    @property
    def tokenizer_folder(self) -> Path | None:
        """The folder of tokenizer and chat template: the adapter's if it has a vocabulary, else the model's."""
        adapter = self._locate(self._parsed.adapter) if self._parsed.adapter else None
        return adapter if adapter and any(side_files(adapter, VOCABULARIES)) else self.folder

    @property
    def has_config(self) -> bool:
        """Whether there is a ``config.json``, even if it is a link that leads nowhere."""
        return self.folder is not None and os.path.lexists(self.folder / "config.json")

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of ``config.json``, as the adapter leaves it. Raises UserError if it is not readable."""
        if not self._adapter:
            return self._stored_config
        with located(str(self._parsed.adapter)):
            return self._adapter.config(self._stored_config)

    @cached_property
    def _stored_config(self) -> dict[str, Any]:
        file = self.path / "config.json"
        if not file.exists():
            raise UserError(f"{self.reference}: needs a config.json")
        config = read_json_object(file)
        for key, (is_valid, expected) in CONFIG_KEYS.items():
            if config.get(key) is not None and not is_valid(config[key]):
                raise UserError(f"{file}: {key}: found {quoted(config[key])}, expected {expected}")
        _check_depths(file, config)
        return config

    @cached_property
    def weights(self) -> WeightFiles:
        """The files of the weights, without an adapter's."""
        if (self.path / ADAPTER_CONFIG).exists() and not any((self.path / name).exists() for name in USUAL_NAMES):
            raise UserError(f"{self.reference}: {self._instead_of_adapter()}")
        if self._parsed.adapter is None and (self.path / ADAPTER_CONFIG).exists():
            raise UserError(
                f"{self.reference}: has both a model and an adapter ({ADAPTER_CONFIG}), and transformers loads the "
                f"adapter on its own base: remove {ADAPTER_CONFIG} if the model is meant; for the adapter, write "
                f"{self._on_its_base()}"
            )
        return find_weights(self.path)

    @cached_property
    def _stored(self) -> dict[str, TensorInfo]:
        stored = {name: file.tensors[name] for name, file in self.weights.file_of.items()}
        factors = [name for name in stored if is_factor(name)]
        if len(factors) * 2 > len(stored):
            raise UserError(f"{self.reference}: {self._instead_of_adapter()}")
        if factors:
            raise UserError(
                f"{self.reference}: has an adapter among its weights, such as {min(factors)}; expected a model: save "
                "what PEFT's merge_and_unload returns"
            )
        return stored

    def _read(self, name: str) -> Tensor:
        return self.weights.file_of[name].read(name)

    def _instead_of_adapter(self) -> str:
        """Says what to write where an adapter stands in place of a model."""
        return f"is an adapter, not a model; write {self._on_its_base()}"

    def _on_its_base(self) -> str:
        base = "MODEL"
        with suppress(UserError):
            folder = self.path if self.path.is_dir() else self.path.parent
            base = read_adapter_config(folder).base_model_name_or_path or base
        where = "" if base != "MODEL" else ", where MODEL is the model that it was trained on"
        return f"{ModelReference(base, self._parsed.model)}{where}"

    @cached_property
    def _adapter(self) -> Adapter | None:
        if self._parsed.adapter is None:
            return None
        architecture = architecture_of(self._stored_config) if self.has_config else None
        folder = self._locate(self._parsed.adapter)
        with located(self._parsed.adapter):
            return Adapter(folder, self._stored, self._read, architecture)

    def _locate(self, name: str) -> Path:
        return self._named_paths.get(name) or locate(name)


def _is_constant(sample: bytes, width: int) -> bool:
    return sample[width:] == sample[:-width]


def common_dtype(checkpoints: Sequence[Checkpoint]) -> torch.dtype:
    """Returns the one float dtype of these checkpoints. Raises UserError if they have several."""
    owners: dict[torch.dtype, str] = {}
    for checkpoint in checkpoints:
        for info in checkpoint.tensors.values():
            if info.dtype.is_floating_point:
                owners.setdefault(info.dtype, checkpoint.reference)
    if len(owners) != 1:
        kinds = listed(f"{str(dtype).removeprefix('torch.')} in {reference}" for dtype, reference in owners.items())
        raise UserError(f"dtype: is missing, and the checkpoints have different dtypes: {kinds}; set dtype")
    return next(iter(owners))


def tensors_digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Returns the SHA-256 of names and bytes, in the given order."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(name.encode())
        digest.update(tensor.contiguous().cpu().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_depths(file: Path, config: dict[str, Any], sections: int = 4) -> None:
    """Raises UserError for a number of layers that no model has, which transformers would make one by one.

    Looks so many ``sections`` deep.
    """
    for key, value in config.items():
        if isinstance(value, dict) and sections:
            _check_depths(file, value, sections - 1)
        elif LAYERS.search(key) and isinstance(value, int) and value > MOST_LAYERS:
            raise UserError(f"{file}: {key}: found {quoted(value)}, expected at most {MOST_LAYERS}")
