"""Which axes of which tensors may be permuted, together with which others: the symmetries of a model.

A group is a set of entries, such as the neurons of a hidden layer, that may stand in any order, as long as it is the
same order wherever they occur. A permutation of a group with parents may differ for each of the parents' entries: that
of the values of an attention head for each head.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from mergesearch.errors import UserError
from mergesearch.merge_ops.recipe.layout import layer_of


@dataclass(frozen=True)
class Group:
    """Entries that may be permuted.

    Attributes:
        name: its name, that of a tensor and an axis where it occurs.
        size: the number of entries.
        parents: the groups for each of whose entries the permutation may be another one. Their parents are among them.
    """

    name: str
    size: int
    parents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """A piece of an axis: ``size`` entries of a group, or entries that keep their order if ``group`` is None."""

    size: int
    group: str | None = None


@dataclass(frozen=True)
class Product:
    """An axis of all combinations of its parts' entries, the last of which runs fastest: (heads, size of a head)."""

    parts: tuple["Structure", ...]

    @property
    def size(self) -> int:
        """The number of entries."""
        return prod(part.size for part in self.parts)


@dataclass(frozen=True)
class Row:
    """An axis of parts one behind the other, as in a fused QKV."""

    parts: tuple["Structure", ...]

    @property
    def size(self) -> int:
        """The number of entries."""
        return sum(part.size for part in self.parts)


Structure = Part | Product | Row
Axes = tuple[Structure, ...]
"""The structure of each axis of a tensor."""
Permutations = Mapping[str, Tensor]
"""By group, the old place of each entry: int64, of shape (*sizes of the parents, size). Parents' entries are counted in
their new places."""


@dataclass(frozen=True)
class AxisGroups:
    """The symmetries of a model: its outputs stay the same when groups are permuted.

    Attributes:
        groups: the groups by name, each after its parents.
        tensors: the structure of the axes of each tensor, by its name in ``state_dict``.
        outputs: that of each module's output, by the module's name. Those of several tensors, and those whose entries
            no group orders, are left out.
        notes: what kept axes from being permuted though their entries may have no order; one line each.
    """

    groups: Mapping[str, Group]
    tensors: Mapping[str, Axes]
    outputs: Mapping[str, Axes] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def identity(self) -> dict[str, Tensor]:
        """Returns the permutations that leave everything where it is."""
        return {name: self._filled(group, torch.arange(group.size)) for name, group in self.groups.items()}

    def where(self, group: str) -> list[str]:
        """Returns the names of the tensors with entries of this group."""
        return [name for name, axes in self.tensors.items() if any(group in groups_in(axis) for axis in axes)]

    def descendants(self, group: str) -> list[str]:
        """Returns the groups that have this one as a parent."""
        return [name for name, other in self.groups.items() if group in other.parents]

    def permuted(self, permutations: Permutations, name: str, tensor: Tensor) -> Tensor:
        """Returns a tensor in the new order.

        Args:
            permutations: the permutations. Groups that are not named stay as they are.
            name: the tensor's name in ``state_dict``.
            tensor: the tensor, in the old order.
        """
        return permuted(self.groups, permutations, self.tensors[name], tensor)

    def apply(self, permutations: Permutations, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns all tensors in the new order; those that the groups do not name stay as they are."""
        return {
            name: self.permuted(permutations, name, tensor) if name in self.tensors else tensor
            for name, tensor in tensors.items()
        }

    def composed(self, first: Permutations, then: Permutations) -> dict[str, Tensor]:
        """Returns the permutations that are the first ones followed by the others. Both name all groups."""
        return {name: self._composed(group, first, then) for name, group in self.groups.items()}

    def _composed(self, group: Group, first: Permutations, then: Permutations) -> Tensor:
        if not group.parents:
            return first[group.name][then[group.name]]
        sizes = [self.groups[parent].size for parent in group.parents]
        grid = dict(zip(group.parents, torch.meshgrid(*map(torch.arange, sizes), indexing="ij"), strict=True))
        old = [then[p][(*(grid[q] for q in self.groups[p].parents), grid[p])] for p in group.parents]
        return torch.take_along_dim(first[group.name][tuple(old)], then[group.name], -1)

    def _filled(self, group: Group, order: Tensor) -> Tensor:
        return order.expand(*(self.groups[parent].size for parent in group.parents), group.size).clone()


def groups_in(axis: Structure) -> Iterator[str]:
    """Yields the groups whose entries an axis has."""
    if isinstance(axis, Part):
        yield from [axis.group] if axis.group is not None else []
    else:
        for part in axis.parts:
            yield from groups_in(part)


def blocks(tensor: Tensor, axes: Sequence[Structure]) -> Iterator[tuple[Tensor, tuple[str | None, ...]]]:
    """Yields the pieces of a tensor in which each dimension is one group, or none.

    Yields:
        A view of the tensor, and the group of each of its dimensions.
    """
    for dim, axis in enumerate(axes):
        if isinstance(axis, Product):
            sizes = [part.size for part in axis.parts]
            shape = (*tensor.shape[:dim], *sizes, *tensor.shape[dim + 1 :])
            yield from blocks(tensor.view(shape), (*axes[:dim], *axis.parts, *axes[dim + 1 :]))
            return
        if isinstance(axis, Row):
            start = 0
            for part in axis.parts:
                piece = tensor.narrow(dim, start, part.size)
                yield from blocks(piece, (*axes[:dim], part, *axes[dim + 1 :]))
                start += part.size
            return
    yield tensor, tuple(axis.group if isinstance(axis, Part) else None for axis in axes)


def permuted(
    groups: Mapping[str, Group], permutations: Permutations, axes: Sequence[Structure], tensor: Tensor
) -> Tensor:
    """Returns a tensor of these axes in the new order. Groups without a permutation stay as they are."""
    result = torch.empty_like(tensor)
    for (source, labels), (target, _) in zip(blocks(tensor, axes), blocks(result, axes), strict=True):
        block = source
        for name in groups:  # parents first, so that those of the next ones are in their new order
            if name in labels and name in permutations:
                block = _reordered(block, labels, groups[name], permutations[name].to(tensor.device))
        target.copy_(block)
    return result


def _reordered(block: Tensor, labels: Sequence[str | None], group: Group, permutation: Tensor) -> Tensor:
    """Returns the block with every dimension of the group in its new order."""
    for dim, label in enumerate(labels):
        if label != group.name:
            continue
        if not group.parents:
            block = block.index_select(dim, permutation)
            continue
        dims = [labels.index(parent) for parent in group.parents] + [dim]
        order = sorted(range(len(dims)), key=dims.__getitem__)
        shape = [block.shape[d] if d in dims else 1 for d in range(block.ndim)]
        block = torch.take_along_dim(block, permutation.permute(order).reshape(shape), dim)
    return block


def check_alike(
    spec: AxisGroups, model: Mapping[str, Tensor], anchor: Mapping[str, Tensor], names: tuple[str, str]
) -> None:
    """Raises UserError unless both models have the layers and the widths of the groups.

    Axes without groups may differ, and tensors outside the layers may be missing: other vocabularies, other heads.

    Args:
        spec: the groups of the model.
        model: its tensors by name.
        anchor: those of the model that it is aligned to.
        names: what messages call the two.
    """
    _check_layers(model, anchor, names)
    _check_layers(anchor, model, (names[1], names[0]))
    for name, axes in spec.tensors.items():
        if name in anchor:
            _check_widths(name, axes, (tuple(model[name].shape), tuple(anchor[name].shape)), names)


def _check_layers(model: Mapping[str, Tensor], other: Mapping[str, Tensor], names: tuple[str, str]) -> None:
    missing = [name for name in other if name not in model and layer_of(name)]
    if missing:
        raise UserError(
            f"align: {names[0]}: has no tensor {missing[0]}, which {names[1]} has; only models of the same depth can "
            "be aligned"
        )


def _check_widths(
    name: str, axes: Axes, shapes: tuple[tuple[int, ...], tuple[int, ...]], names: tuple[str, str]
) -> None:
    found, expected = shapes
    if len(found) != len(expected):
        raise UserError(
            f"align: {names[0]}: {name}: found {len(found)} axes, expected {len(expected)} as in {names[1]}"
        )
    for axis, structure in enumerate(axes):
        if found[axis] != expected[axis] and any(groups_in(structure)):
            raise UserError(
                f"align: {names[0]}: {name}: axis {axis}: found {found[axis]} entries, expected {expected[axis]} as in "
                f"{names[1]}; only models of the same widths can be aligned"
            )
