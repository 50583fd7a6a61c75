"""Copies of checkpoints whose entries are in the order that fits another checkpoint."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mergesearch.errors import UserError, in_words
from mergesearch.files import digest
from mergesearch.merge_ops.alignment.matchers import MATCHERS, Move, Side
from mergesearch.merge_ops.alignment.models import module_symmetries, outputs, symmetries
from mergesearch.merge_ops.alignment.spec import AxisGroups, check_alike
from mergesearch.merge_ops.alignment.spec_file import read_spec
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.checkpoint.config_sections import untied
from mergesearch.merge_ops.checkpoint.content import stamp
from mergesearch.merge_ops.checkpoint.copies import CopiesFolder, CopyWriter
from mergesearch.merge_ops.checkpoint.references import Alignment, is_spec_file
from mergesearch.merge_ops.checkpoint.tensor_files import TensorInfo
from mergesearch.merge_ops.live import live
from mergesearch.merge_ops.live.built import build, find_builder
from mergesearch.reading import check_file
from mergesearch.trust import require_trust


@dataclass(frozen=True)
class Aligned:
    """An aligned copy.

    Attributes:
        folder: its folder.
        spec: the groups.
        before: the cosine of the model's weights and the anchor's, as they were.
        after: the same in the copy.
    """

    folder: CopiesFolder
    spec: AxisGroups
    before: float
    after: float


class _Compared(NamedTuple):
    """What a model computes, if it can be run, and the cosine of its weights and another's."""

    outputs: Tensor | None
    cosine: float

    @classmethod
    def of(cls, spec: AxisGroups, model: Side, anchor: Side) -> "_Compared":
        shared = [name for name in spec.tensors if name in anchor.tensors]
        pairs = ((model.tensors[name].double(), anchor.tensors[name].double()) for name in shared)
        same = [(one, other) for one, other in pairs if one.shape == other.shape]
        norms = sum(float(one.norm() * other.norm()) for one, other in same)
        cosine = sum(float((one * other).sum()) for one, other in same) / (norms or 1.0)
        return cls(outputs(model.module) if model.module else None, cosine)


_DONE: dict[tuple[object, ...], Aligned] = {}
"""What this process has aligned, by references and the states of their files."""


def aligned_copy(model: str, alignment: Alignment, named_paths: Mapping[str, Path] | None = None) -> Aligned:
    """Returns the copy of a model that fits another one best and computes the same.

    Args:
        model: the reference of the model.
        alignment: what it is to fit, and how.
        named_paths: as for ``Checkpoint``.

    Raises:
        UserError: the two have other widths or depths, or nothing is known of the order of their entries.
    """
    checkpoints = Checkpoint(model, named_paths), Checkpoint(alignment.to, named_paths)
    if alignment.data:
        check_file(Path(alignment.data))
    key = (alignment, *map(stamp, checkpoints), alignment.data and digest(Path(alignment.data)))
    if key not in _DONE:
        _DONE[key] = _aligned(*checkpoints, alignment)
    return _DONE[key]


def _aligned(model: Checkpoint, anchor: Checkpoint, alignment: Alignment) -> Aligned:
    unties = alignment.by == "orthogonal"
    spec = find_symmetries(model, alignment.spec, unties)
    ours, theirs = (_side(checkpoint, alignment.spec, unties) for checkpoint in (model, anchor))
    check_alike(spec, ours.tensors, theirs.tensors, (model.reference, anchor.reference))
    move = MATCHERS[alignment.by](spec, ours, theirs, alignment)
    before = _Compared.of(spec, ours, theirs)
    _move(spec, move, ours.tensors)
    after = _Compared.of(spec, ours, theirs)
    _check_same(before.outputs, after.outputs, alignment.by, model.reference)
    return Aligned(_written(model, ours.stored), spec, before.cosine, after.cosine)


def _written(model: Checkpoint, stored: Mapping[str, Tensor]) -> CopiesFolder:
    """Writes a copy with these tensors in the dtypes of the model; those that it does not have are of the widest."""
    tensors = {
        name: stored[name].to(info.dtype).view(info.shape) if name in stored else model.tensor(name)
        for name, info in model.tensors.items()
    }
    widest = reduce(torch.promote_types, (info.dtype for info in _floats(model)))
    more = {name: tensor.to(widest) for name, tensor in stored.items() if name not in tensors}
    folder = CopiesFolder("aligned")
    writer = CopyWriter(model, folder.path)
    writer.write({name: tensor.clone() for name, tensor in {**tensors, **more}.items()})  # files have no views of one
    config = model.config if model.has_config else None
    writer.finish((), untied(config) if config and more else config)
    return folder


def find_symmetries(checkpoint: Checkpoint, spec: str | None, unties: bool = False) -> AxisGroups:
    """Returns the groups of a checkpoint's entries.

    Args:
        checkpoint: the checkpoint.
        spec: a YAML file of groups, or ``module:function``, which builds the module; None: transformers builds it.
        unties: an output layer that is tied to the embedding gets a weight of its own.

    Raises:
        UserError: the file is wrong, the function is not trusted, or the module cannot be traced.
    """
    if spec is not None and is_spec_file(spec):
        return read_spec(Path(spec), {name: info.shape for name, info in checkpoint.tensors.items()})
    if spec is not None:
        require_trust(spec, "align: spec")
    try:
        if spec is not None:
            return module_symmetries(build(checkpoint, find_builder(spec), "cpu", None))
        config = _config(checkpoint)
        return symmetries(untied(config) if unties else config)
    except UserError:
        raise
    except Exception as error:  # whatever a model does without weights
        raise UserError(
            f"{checkpoint.reference}: align: the model could not be run to see which of its entries have an order: "
            f"{in_words(error)}; give a file of groups as `spec`"
        ) from error


def _config(checkpoint: Checkpoint) -> dict[str, Any]:
    if not checkpoint.has_config:
        raise UserError(
            f"{checkpoint.reference}: align: has no config.json that says what the model computes; give `spec`: a YAML "
            "file of groups, or a function that builds the module"
        )
    return checkpoint.config


def _side(checkpoint: Checkpoint, spec: str | None, unties: bool) -> Side:
    if spec is not None and is_spec_file(spec):
        tensors = {name: checkpoint.tensor(name).clone() for name in checkpoint.tensors}
        return Side(checkpoint, tensors, tensors)
    dtype = reduce(torch.promote_types, (info.dtype for info in _floats(checkpoint)), torch.float32)
    if spec is not None:
        module = build(checkpoint, find_builder(spec), "cpu", dtype)
        return Side(checkpoint, module.state_dict(), module.state_dict(), module)
    module, _ = live.load(checkpoint, "cpu", dtype)
    stored = live.bind(module, checkpoint)
    if unties:
        before = outputs(module)
        head = live.untie_head(module)
        _check_same(before, outputs(module), "orthogonal", checkpoint.reference)
        stored |= {head: module.get_parameter(head).detach()} if head else {}
    return Side(checkpoint, module.state_dict(), stored, module)


def _floats(checkpoint: Checkpoint) -> Iterator[TensorInfo]:
    return (info for info in checkpoint.tensors.values() if info.dtype.is_floating_point)


def _move(spec: AxisGroups, move: Move, tensors: Mapping[str, Tensor]) -> None:
    """Moves tensors in place, those that are tied once."""
    done: set[int] = set()
    with torch.no_grad():
        for name in spec.tensors:
            tensor = tensors[name]
            if tensor.data_ptr() not in done:
                done.add(tensor.data_ptr())
                tensor.copy_(move(name))


def _check_same(before: Tensor | None, after: Tensor | None, by: str, reference: str) -> None:
    """Raises UserError if a model computes something else. Nothing but rounding may differ."""
    if before is None or after is None:
        return
    difference = float((after - before).norm() / before.norm().clamp_min(torch.finfo(before.dtype).tiny))
    if not difference <= torch.finfo(before.dtype).eps ** 0.5:
        hint = "align: weights" if by == "orthogonal" else "align: none, or give a file of groups as `spec`"
        raise UserError(
            f"{reference}: align: {by}: the aligned model computes something else (its outputs differ by "
            f"{difference:.1%}); set {hint}"
        )
