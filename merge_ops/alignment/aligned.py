"""Copies of checkpoints whose entries are in the order that fits another checkpoint."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import torch
from torch import Tensor, nn

from mergesearch.errors import UserError, in_words
from mergesearch.merge_ops.alignment.matching import Matched, match, weight_sources
from mergesearch.merge_ops.alignment.models import module_symmetries, outputs, symmetries
from mergesearch.merge_ops.alignment.spec import AxisGroups, check_alike
from mergesearch.merge_ops.alignment.spec_file import is_spec_file, read_spec
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.checkpoint.content import stamp
from mergesearch.merge_ops.checkpoint.copies import CopiesFolder, CopyWriter
from mergesearch.merge_ops.checkpoint.references import Alignment
from mergesearch.merge_ops.checkpoint.tensor_files import TensorInfo
from mergesearch.merge_ops.live import live
from mergesearch.merge_ops.live.built import build, find_builder


@dataclass(frozen=True)
class Side:
    """One of two models: the checkpoint, its tensors by the names of the groups, and the module, if there is one.

    Attributes:
        checkpoint: the checkpoint.
        tensors: the module's tensors, or copies of those that are stored; float32 or wider.
        stored: the same tensors, or views of them, by stored name.
        module: the module that computes with ``tensors``.
    """

    checkpoint: Checkpoint
    tensors: Mapping[str, Tensor]
    stored: Mapping[str, Tensor]
    module: nn.Module | None = None


Matcher = Callable[[AxisGroups, Side, Side, Alignment], Matched]
"""Returns the permutations of the first side that fit the second."""


def by_weights(spec: AxisGroups, model: Side, anchor: Side, _: Alignment) -> Matched:
    """Weight matching."""
    return match(spec, weight_sources(spec, anchor.tensors, model.tensors))


MATCHERS: dict[str, Matcher] = {"weights": by_weights}


@dataclass(frozen=True)
class Aligned:
    """An aligned copy: its folder, the groups, and what the matching found."""

    folder: CopiesFolder
    spec: AxisGroups
    matched: Matched


_DONE: dict[tuple[object, ...], Aligned] = {}
"""What this process has aligned, by references and the states of their files."""


def aligned_copy(model: str, alignment: Alignment, named_paths: Mapping[str, Path] | None = None) -> Aligned:
    """Returns the copy of a model that fits another one best. Its values are those of the model, in another order.

    Args:
        model: the reference of the model.
        alignment: what it is to fit, and how.
        named_paths: as for ``Checkpoint``.

    Raises:
        UserError: the two have other widths or depths, or nothing is known of the order of their entries.
    """
    checkpoints = Checkpoint(model, named_paths), Checkpoint(alignment.to, named_paths)
    key = (alignment, *map(stamp, checkpoints))
    if key not in _DONE:
        _DONE[key] = _aligned(*checkpoints, alignment)
    return _DONE[key]


def _aligned(model: Checkpoint, anchor: Checkpoint, alignment: Alignment) -> Aligned:
    spec = find_symmetries(model, alignment.spec)
    has_module = alignment.spec is None
    ours, theirs = _side(model, has_module), _side(anchor, has_module)
    check_alike(spec, ours.tensors, theirs.tensors, (model.reference, anchor.reference))
    matched = MATCHERS[alignment.by](spec, ours, theirs, alignment)
    before = outputs(ours.module) if ours.module else None
    _permute(spec, matched, ours.tensors)
    if ours.module and before is not None:
        _check_same(before, outputs(ours.module), model.reference)
    tensors = {
        name: ours.stored[name].to(info.dtype).view(info.shape) if name in ours.stored else model.tensor(name)
        for name, info in model.tensors.items()
    }
    return Aligned(_written(model, tensors), spec, matched)


def _written(model: Checkpoint, tensors: Mapping[str, Tensor]) -> CopiesFolder:
    folder = CopiesFolder("aligned")
    writer = CopyWriter(model, folder.path)
    writer.write({name: tensor.clone() for name, tensor in tensors.items()})  # files have no views of one tensor
    writer.finish((), model.config if model.has_config else None)
    return folder


def find_symmetries(checkpoint: Checkpoint, spec: str | None) -> AxisGroups:
    """Returns the groups of a checkpoint's entries.

    Args:
        checkpoint: the checkpoint.
        spec: a YAML file of groups, or ``module:function``, which builds the module; None: transformers builds it.

    Raises:
        UserError: the file is wrong, or the module cannot be traced.
    """
    if spec is not None and is_spec_file(spec):
        return read_spec(Path(spec), {name: info.shape for name, info in checkpoint.tensors.items()})
    try:
        if spec is not None:
            return module_symmetries(build(checkpoint, find_builder(spec), "cpu", None))
        return symmetries(_config(checkpoint))
    except UserError:
        raise
    except Exception as error:  # whatever a model does without weights
        raise UserError(
            f"{checkpoint.reference}: align: the model could not be run to see which of its entries have an order: "
            f"{in_words(error)}; give a file of groups as `spec`"
        ) from error


def _config(checkpoint: Checkpoint) -> dict[str, object]:
    if not checkpoint.has_config:
        raise UserError(
            f"{checkpoint.reference}: align: has no config.json that says what the model computes; give `spec`: a YAML "
            "file of groups, or a function that builds the module"
        )
    return checkpoint.config


def _side(checkpoint: Checkpoint, has_module: bool) -> Side:
    if has_module:
        dtype = reduce(torch.promote_types, (info.dtype for info in _floats(checkpoint)), torch.float32)
        module, _ = live.load(checkpoint, "cpu", dtype)
        return Side(checkpoint, module.state_dict(), live.bind(module, checkpoint), module)
    tensors = {name: checkpoint.tensor(name).clone() for name in checkpoint.tensors}
    return Side(checkpoint, tensors, tensors)


def _floats(checkpoint: Checkpoint) -> Iterator[TensorInfo]:
    return (info for info in checkpoint.tensors.values() if info.dtype.is_floating_point)


def _permute(spec: AxisGroups, matched: Matched, tensors: Mapping[str, Tensor]) -> None:
    """Puts tensors in their new order, in place, those that are tied once."""
    done: set[int] = set()
    with torch.no_grad():
        for name in spec.tensors:
            tensor = tensors[name]
            if tensor.data_ptr() not in done:
                done.add(tensor.data_ptr())
                tensor.copy_(spec.permuted(matched.permutations, name, tensor))


def _check_same(before: Tensor, after: Tensor, reference: str) -> None:
    """Raises UserError if a model computes something else. Nothing but rounding may differ."""
    difference = float((after - before).norm() / before.norm().clamp_min(torch.finfo(before.dtype).tiny))
    if not difference <= torch.finfo(before.dtype).eps ** 0.5:
        raise UserError(
            f"{reference}: align: in the order that was found, the model computes something else (its outputs differ "
            f"by {difference:.1%}); set align: none, or give a file of groups as `spec`"
        )
