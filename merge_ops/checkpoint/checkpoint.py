"""Checkpoints on disk: read tensor by tensor, written whole or not at all."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mergesearch.errors import UserError, listed
from mergesearch.merge_ops.checkpoint.lora import ADAPTER_CONFIG, Adapter
from mergesearch.merge_ops.checkpoint.references import split_reference, split_revision
from mergesearch.merge_ops.checkpoint.tensor_files import TensorFile, TensorInfo

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
SIDE_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "chat_template*",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "normalizer.json",
)
"""What makes a folder loadable beside its weights, by glob."""
_WANTED = ["*.safetensors", INDEX, ADAPTER_CONFIG, *SIDE_FILES]


class Checkpoint:
    """A Hugging Face folder with safetensors (one file or shards), or one ``.safetensors`` file; a LoRA adapter on it.

    Only headers are read at first; each ``tensor`` call reads one tensor, and applies the adapter to it. ``reference``
    is what the recipe calls the checkpoint; ``places`` says where those lie that go by other names than their path.
    """

    def __init__(self, reference: str, places: Mapping[str, Path] | None = None) -> None:
        self.reference = reference
        self._places_by_name = places or {}
        self._parts = split_reference(reference)
        self.path = self._locate(self._parts.model)

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        """Every tensor by name, in the names' order."""
        found = {name: info for file in self._files for name, info in file.tensors.items()}
        if self._adapter:
            found |= self._adapter.replaced
        return dict(sorted(found.items()))

    def tensor(self, name: str) -> Tensor:
        """Reads one tensor to the CPU."""
        if not self._adapter:
            return self._homes[name].read(name)
        return self._adapter.applied(name, lambda: self._homes[name].read(name))

    def digest(self) -> str:
        """SHA-256 over all tensors' names and bytes, in the names' order."""
        return tensors_digest((name, self.tensor(name)) for name in self.tensors)

    @property
    def stored(self) -> "Checkpoint":
        """The checkpoint without its adapter: what a model is loaded from."""
        return Checkpoint(self._parts.model, self._places_by_name) if self._parts.adapter else self

    @property
    def folder(self) -> Path | None:
        """Where config and tokenizer lie; None for a bare file."""
        return self.path if self.path.is_dir() else None

    @cached_property
    def config(self) -> dict[str, Any]:
        """``config.json``; raises UserError where there is none."""
        file = self.path / "config.json"
        try:
            return dict(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise UserError(f"{self.reference}: needs a config.json: {error}") from None

    @cached_property
    def _files(self) -> list[TensorFile]:
        return [TensorFile(file) for file in _weight_files(self.path)]

    @cached_property
    def _homes(self) -> dict[str, TensorFile]:
        return {name: file for file in self._files for name in file.tensors}

    @cached_property
    def _adapter(self) -> Adapter | None:
        if not self._parts.adapter:
            return None
        infos = {name: file.tensors[name] for name, file in self._homes.items()}
        return Adapter(self._parts.adapter, self._locate(self._parts.adapter), infos)

    def _locate(self, name: str) -> Path:
        return self._places_by_name.get(name) or locate(name)


def locate(reference: str) -> Path:
    """The local path of a checkpoint; a name on the model hub is downloaded to the hub's cache. Raises UserError."""
    path = Path(reference)
    if path.exists():
        return path
    reference, revision = split_revision(reference)
    beside_others = path.parent != Path() and path.parent.is_dir()
    if reference.count("/") != 1 or reference.startswith((".", "/", "~")) or beside_others:
        raise UserError(f"{reference}: there is no such checkpoint{_neighbours(path)}")
    return _download(reference, revision)


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_WANTED))
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{name}: there is no such folder, and the model hub did not give it: {reason}") from None


def _neighbours(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f", nor the folder {folder}"
    return f"; in {folder}: {listed(entry.name for entry in folder.iterdir()) or 'nothing'}"


def _weight_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if (path / INDEX).exists():
        return _shards(path)
    single = sorted(path.glob("*.safetensors"))
    if (path / SINGLE) in single or len(single) == 1:
        return [path / SINGLE] if (path / SINGLE) in single else single
    raise UserError(f"{path}: expected {SINGLE} or {INDEX}, found: {listed(f.name for f in path.iterdir())}")


def _shards(path: Path) -> list[Path]:
    try:
        index = json.loads((path / INDEX).read_text(encoding="utf-8"))
        files = [path / name for name in sorted(set(index["weight_map"].values()))]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{path / INDEX}: is not an index of shards: {error!r}") from None
    missing = [file.name for file in files if not file.exists()]
    if missing:
        raise UserError(f"{path}: the index names shards that are not there: {listed(missing)}")
    return files


def common_dtype(checkpoints: Sequence[Checkpoint]) -> torch.dtype:
    """The one float dtype of these checkpoints; raises UserError, which says whose is which, where they differ."""
    found: dict[torch.dtype, str] = {}
    for checkpoint in checkpoints:
        for info in checkpoint.tensors.values():
            if info.dtype.is_floating_point:
                found.setdefault(info.dtype, checkpoint.reference)
    if len(found) != 1:
        kinds = listed(f"{str(dtype).removeprefix('torch.')} in {reference}" for dtype, reference in found.items())
        raise UserError(f"dtype: is missing; the checkpoints differ in it: {kinds}")
    return next(iter(found))


def tensors_digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over names and bytes, in the order given."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(name.encode())
        digest.update(tensor.contiguous().cpu().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
