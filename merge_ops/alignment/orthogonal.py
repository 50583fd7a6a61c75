"""Orthogonal alignment: a rotation of the residual stream, and permutations of everything else."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mergesearch.errors import UserError, listed
from mergesearch.merge_ops.alignment.activations import Labels, Products
from mergesearch.merge_ops.alignment.matching import Matched, Source, match
from mergesearch.merge_ops.alignment.rotation import Stream, Tensors, find_stream, nearest_rotation
from mergesearch.merge_ops.alignment.spec import AxisGroups, Part, Permutations, Structure, groups_in
from mergesearch.merge_ops.live.calibration_data import Batch

ROUNDS = 10
"""How often rotation and permutations are improved in turn, at most."""
TOLERANCE = 1e-4
"""The smallest gain of a round, as a part of the likeness."""


class OrthogonalAlignment:
    """The symmetries of one model: its permutations, and the rotations of its stream.

    Args:
        spec: the groups of the model.
        model: the live model.
        reference: its reference, for messages.
        batch: an input of it.

    Raises:
        UserError: the stream cannot be rotated.
    """

    def __init__(self, spec: AxisGroups, model: nn.Module, reference: str, batch: Batch) -> None:
        self._reference = reference
        self._group = _stream_group(spec, model, reference)
        dims = {name: _dims(axes, self._group) for name, axes in spec.tensors.items()}
        dims = {name: own for name, own in dims.items() if own}
        self.stream: Stream = find_stream(model, reference, dims, batch.run)
        self.rest = without(spec, self._group)

    def move(
        self, anchor: Tensors, model: Tensors, products: Mapping[tuple[str, Labels], Products] | None = None
    ) -> Callable[[str], Tensor]:
        """Returns what gives each tensor in the anchor's order and basis, by name: the same function, in its dtype.

        Args:
            anchor: the tensors of the model that the other is aligned to, by the names of ``state_dict``.
            model: the tensors of the other one.
            products: of activations, by which the rotation is found. None: by weights, in turn with the permutations.
        """
        if products is None:
            rotation, permutations = self._by_weights(anchor, model)
        else:
            rotation = self._by_activations(products)
            permutations = self._matched(anchor, model, rotation).permutations
        folded = {norm.weight: model[norm.weight].clone() for norm in self.stream.norms}
        return lambda name: self._moved(anchor, {**model, **folded}, name, rotation, permutations)

    def _by_activations(self, products: Mapping[tuple[str, Labels], Products]) -> Tensor:
        """Returns the rotation by the stream and what is written to it. Each module counts alike.

        The outputs of norms do not count: they have weights, which are folded here.
        """
        norms = {norm.weight.removesuffix(".weight") for norm in self.stream.norms}
        streams = [own for (name, labels), own in products.items() if labels == (self._group,) and name not in norms]
        found = [own.cosines.T for own in streams]
        return nearest_rotation(torch.stack(found).sum(0))

    def _by_weights(self, anchor: Tensors, model: Tensors) -> tuple[Tensor, Permutations]:
        """Begins with the tensors of which only the stream is unknown, such as embeddings."""
        fixed = [name for name in self.stream.dims if name not in self.rest.tensors]
        if other := [name for name in fixed if anchor[name].shape != model[name].shape]:
            raise UserError(
                f"{self._reference}: align: orthogonal: {listed(other)}: found other shapes than in the model that it "
                "is aligned to; a rotation is found by embeddings of one vocabulary; use align: weights"
            )
        permutations: Permutations = self.rest.identity()
        rotation, reached = self._rotation(anchor, model, fixed, permutations), 0.0
        for _ in range(ROUNDS):
            matched = self._matched(anchor, model, rotation)
            if matched.after <= reached + TOLERANCE:
                break
            reached, permutations = matched.after, matched.permutations
            rotation = self._rotation(anchor, model, list(self.stream.dims), permutations)
        return rotation, permutations

    def _matched(self, anchor: Tensors, model: Tensors, rotation: Tensor) -> Matched:
        """Matches the other groups in the rotated basis, by weights."""
        tensors = self.rest.tensors.items()
        pairs = {name: (axes, self._wide(anchor, name), self._wide(model, name, rotation)) for name, axes in tensors}
        return match(self.rest, {name: Source(*pair) for name, pair in pairs.items()})

    def _rotation(self, anchor: Tensors, model: Tensors, names: list[str], permutations: Permutations) -> Tensor:
        pairs = ((self._folded(anchor, name), self._folded(model, name, permutations), name) for name in names)
        return nearest_rotation(torch.stack([self.stream.cross(*pair) for pair in pairs]).sum(0))

    def _folded(self, tensors: Tensors, name: str, permutations: Permutations | None = None) -> Tensor:
        folded = self.stream.folded(tensors, name)
        is_moved = permutations is not None and name in self.rest.tensors
        return self.rest.permuted(permutations, name, folded) if is_moved and permutations is not None else folded

    def _wide(self, tensors: Tensors, name: str, rotation: Tensor | None = None) -> Tensor:
        folded = self._folded(tensors, name)
        rotated = folded if rotation is None else self.stream.rotated(folded, name, rotation)
        return rotated.to(torch.promote_types(tensors[name].dtype, torch.float32))

    def _moved(
        self, anchor: Tensors, model: Tensors, name: str, rotation: Tensor, permutations: Permutations
    ) -> Tensor:
        if not model[name].is_floating_point():
            return model[name]
        rotated = self.stream.rotated(self._folded(model, name, permutations), name, rotation)
        return self.stream.unfolded(rotated, name, anchor).to(model[name].dtype)


def without(spec: AxisGroups, group: str) -> AxisGroups:
    """Returns the groups without one of them, whose entries keep their order."""

    def plain(axis: Structure) -> Structure:
        if isinstance(axis, Part):
            return Part(axis.size) if axis.group == group else axis
        return replace(axis, parts=tuple(map(plain, axis.parts)))

    def kept(tensors: Mapping[str, tuple[Structure, ...]]) -> dict[str, tuple[Structure, ...]]:
        found = {name: tuple(map(plain, axes)) for name, axes in tensors.items()}
        return {name: axes for name, axes in found.items() if any(True for axis in axes for _ in groups_in(axis))}

    groups = {name: own for name, own in spec.groups.items() if name != group}
    return AxisGroups(groups, kept(spec.tensors), kept(spec.outputs), spec.notes)


def _stream_group(spec: AxisGroups, model: Any, reference: str) -> str:
    """Returns the group of the entries of token embeddings."""
    embedding = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    names = [
        name for name, tensor in model.state_dict(keep_vars=True).items() if tensor is getattr(embedding, "weight", 0)
    ]
    axis = next((spec.tensors[name][-1] for name in names if name in spec.tensors), None)
    if not isinstance(axis, Part) or axis.group is None:
        raise UserError(
            f"{reference}: align: orthogonal: the model has no residual stream of token embeddings that could be "
            "rotated; use align: weights"
        )
    return axis.group


def _dims(axes: tuple[Structure, ...], group: str) -> tuple[int, ...]:
    return tuple(dim for dim, axis in enumerate(axes) if isinstance(axis, Part) and axis.group == group)
