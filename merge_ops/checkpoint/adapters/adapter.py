"""An adapter on a checkpoint: which tensors it changes, adds and resizes, and how the config follows."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from mergesearch.errors import UserError, listed
from mergesearch.merge_ops.checkpoint.adapters.changes import Change, Whole
from mergesearch.merge_ops.checkpoint.adapters.config import read_adapter_config
from mergesearch.merge_ops.checkpoint.adapters.ends import Ends
from mergesearch.merge_ops.checkpoint.adapters.heads import with_head
from mergesearch.merge_ops.checkpoint.adapters.keys import read_keys
from mergesearch.merge_ops.checkpoint.adapters.names import BaseNames
from mergesearch.merge_ops.checkpoint.adapters.plan import Planned, Planner
from mergesearch.merge_ops.checkpoint.architecture import Architecture
from mergesearch.merge_ops.checkpoint.config_sections import Json, untied, with_rows
from mergesearch.merge_ops.checkpoint.tensor_files import TensorFile, TensorInfo

ADAPTER_WEIGHTS = "adapter_model.safetensors"
APART = ("whole", "rows")
"""The roles of tensors that other keys of the config name than ``target_modules``."""


class Adapter:
    """A LoRA adapter on a checkpoint.

    Args:
        folder: the adapter's folder.
        base: the tensors of the checkpoint.
        read: reads a tensor of the checkpoint.
        architecture: the checkpoint's architecture, or None if it is not known.

    Raises:
        UserError: the folder is not a supported adapter, or does not fit the checkpoint.
    """

    def __init__(
        self,
        folder: Path,
        base: Mapping[str, TensorInfo],
        read: Callable[[str], Tensor],
        architecture: Architecture | None,
    ) -> None:
        self._base, self._read_base, self._architecture = base, read, architecture
        self._config = read_adapter_config(folder)
        self._file = TensorFile(_weights(folder))
        every = read_keys(self._file.tensors)
        keys = [key for key in every if key.role in APART or self._config.targets(key.module)]
        self.ignored = [key.stored for key in every if key not in keys]
        """The tensors for modules that the config does not name, which PEFT ignores."""
        self._module = {key.stored: key.module for key in keys}
        wanted = [key.module if key.role == "whole" else f"{key.module}.weight" for key in keys]
        names = BaseNames(base, read, architecture, wanted)
        self._ends = Ends(names, self._config, keys)
        shapes = {name: info.shape for name, info in self._file.tensors.items()}
        planner = Planner(self._config, keys, shapes, {name: info.shape for name, info in base.items()}, names)
        self._changes = self._by_tensor(planner.changes())
        if not self._changes:
            targets = self._config.target_modules
            outside = f" for target_modules {targets!r}; it has {listed(self.ignored)}" if self.ignored else ""
            raise UserError(f"{ADAPTER_WEIGHTS} has no tensors{outside}")
        self.tensors = {**base, **{name: self._resulting(name, changes) for name, changes in self._changes.items()}}
        """The tensors of the adapted checkpoint, in the base's dtype where the base has the tensor."""

    def tensor(self, name: str) -> Tensor:
        """Reads a tensor of the adapted checkpoint. Computed in float32, returned in the tensor's dtype."""
        dtype, changes = self.tensors[name].dtype, self._changes.get(name, [])
        if changes and isinstance(changes[0], Whole):
            weight, changes = self._read(changes[0].new.name).to(dtype), changes[1:]
        else:
            weight = self._read_base(self._ends.source(name) or name)
        for change in changes:
            weight = change.applied(weight.float(), self._read)
        return weight.to(dtype)

    def config(self, config: Json) -> Json:
        """Returns the base's config with the adapter: the size of the vocabulary, what is tied, an added head."""
        added = {name: info.shape for name, info in self.tensors.items() if self._ends.source(name) is None}
        if added:
            config = with_head(config, self._config.task_type, added)
        if self._ends.apart:
            config = untied(config)
        for old, new in self._resized:
            resized = with_rows(config, old, new)
            if resized == config:
                raise UserError(f"the adapter has {new} embeddings, and config.json has no vocab_size of {old}")
            config = resized
        return config

    @cached_property
    def _resized(self) -> set[tuple[int, int]]:
        """The number of embeddings before and after, if they differ. Raises UserError if the two ends do."""
        embeddings = self._architecture.embeddings if self._architecture else ()
        names = {name for parameter in embeddings for name in self._ends.of(parameter)}
        sources = {name: self._base[self._ends.source(name) or name].shape[0] for name in names}
        rows = {name: (old, self.tensors[name].shape[0]) for name, old in sources.items()}
        changes = set(rows.values())
        if any(old != new for old, new in changes) and len(changes) > 1:
            found = listed(f"{name} has {new} rows" for name, (_, new) in rows.items())
            raise UserError(f"the adapter resizes the vocabulary, and not all of it: {found}")
        return {(old, new) for old, new in changes if old != new}

    def _by_tensor(self, planned: Sequence[Planned]) -> dict[str, list[Change]]:
        lost = [p.key for p in planned if p.parameter is None and not self._adds(p)]
        if lost:
            trained_on = self._config.base_model_name_or_path
            hint = f"; it was trained on {trained_on}" if trained_on else ""
            raise UserError(f"the model has no tensor for the adapter's {listed(lost)}{hint}")
        changes: dict[str, list[Change]] = {name: [] for name in self._ends.parts}
        for one in planned:
            for name in self._targets(one):
                before = changes.setdefault(name, [])
                if not (isinstance(one.change, Whole) and self._repeats(one.change, before, name)):
                    before.append(one.change)
        return changes

    def _adds(self, planned: Planned) -> bool:
        """Returns whether the tensor is of a module that only the adapter has, such as a classification head."""
        return isinstance(planned.change, Whole) and self._config.saves(self._module[planned.key])

    def _targets(self, planned: Planned) -> list[str]:
        """Returns the tensors of the result that a change applies to."""
        if planned.own is not None:
            return [planned.own]
        if planned.parameter is None:
            return [self._module[planned.key]]
        return self._ends.of(planned.parameter)

    def _repeats(self, change: Whole, before: Sequence[Change], name: str) -> bool:
        """Returns whether a tensor was replaced already, by the same one. Raises UserError if by another."""
        first = next(iter(before), None)
        if not isinstance(first, Whole):
            return False
        if not torch.equal(self._read(first.new.name), self._read(change.new.name)):
            both = f"{first.new.name} and {change.new.name}"
            raise UserError(f"{both} differ, and both are {name} of the model, which ties them")
        return True

    def _resulting(self, name: str, changes: Sequence[Change]) -> TensorInfo:
        source = self._ends.source(name)
        first = next((change.new.name for change in changes if isinstance(change, Whole)), "")
        base = self._base[source] if source else self._file.tensors[first]
        if not base.dtype.is_floating_point:
            found = str(base.dtype).removeprefix("torch.")
            raise UserError(f"{name}: found dtype {found} in the model, expected floats")
        shape = base.shape
        for change in changes:
            try:
                shape = change.resulting(shape)
            except ValueError as error:
                raise UserError(f"{name}: {error}") from None
        return TensorInfo(shape, base.dtype)

    def _read(self, name: str) -> Tensor:
        tensor = self._file.read(name).float()
        if not torch.isfinite(tensor).all():
            raise UserError(f"{self._file.path}: {name} has values that are NaN or infinite")
        return tensor


def _weights(folder: Path) -> Path:
    file = folder / ADAPTER_WEIGHTS
    if not file.exists():
        found = listed(f.name for f in folder.iterdir())
        raise UserError(f"expected {ADAPTER_WEIGHTS}, found: {found}; save the adapter by PEFT's save_pretrained")
    return file
