"""Groups of entries, from the axes of a traced model."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product as combinations

from mergesearch.merge_ops.alignment.axes import Axis
from mergesearch.merge_ops.alignment.spec import Axes, Group, Part, Product, Row, Structure

Block = frozenset[Axis]


class Resolved:
    """The leaves that may be permuted, as groups, and every tensor's axes in terms of them.

    A leaf may be permuted differently for each entry of another one if there is no tensor that has the first without
    the second.

    Args:
        tensors: the axes of the module's tensors.
        appearances: the axes of all tensors of a run.
        selections: places, and the axis of which each of them has chosen an entry.
    """

    def __init__(
        self,
        tensors: Mapping[str, Sequence[Axis]],
        appearances: Iterable[Sequence[Axis]],
        selections: Iterable[tuple[Sequence[Axis], Axis]],
    ) -> None:
        self._names = _leaf_names(tensors)
        chosen = [(frozenset(_leaves(places)), frozenset(axis.leaves())) for places, axis in selections]
        parents = self._parents(appearances, chosen)
        sizes = {name: leaf.size for leaf, name in self._names.items()}
        ordered = sorted(self._names.values(), key=lambda name: len(parents[name]))
        self.groups = {name: Group(name, sizes[name], parents[name]) for name in ordered}
        self.tensors = {name: tuple(map(self._structure, labels)) for name, labels in tensors.items()}
        self.tensors = {name: axes for name, axes in self.tensors.items() if _orders(axes)}

    def of(self, outputs: Mapping[str, Sequence[Axis]]) -> dict[str, Axes]:
        """Returns the axes of other tensors, without those that no group orders."""
        found = {name: tuple(map(self._structure, labels)) for name, labels in outputs.items()}
        return {name: axes for name, axes in found.items() if _orders(axes)}

    def _structure(self, axis: Axis) -> Structure:
        if axis.is_fixed:
            return Part(axis.size)
        if axis.parts:
            terms = axis.terms() if axis.is_sum else axis.factors()
            return (Row if axis.is_sum else Product)(tuple(map(self._structure, terms)))
        return Part(axis.size, self._names.get(axis.root))

    def _parents(
        self, appearances: Iterable[Sequence[Axis]], chosen: Sequence[tuple[Block, Block]]
    ) -> dict[str, tuple[str, ...]]:
        beside: dict[Axis, set[Axis]] = {}
        for block in {block for axes in appearances for block in _blocks(axes)}:
            present = block.union(*(entries for places, entries in chosen if places <= block))
            for leaf in block & self._names.keys():
                others = (present & self._names.keys()) - {leaf}
                beside[leaf] = beside[leaf] & others if leaf in beside else set(others)
        order = {leaf: place for place, leaf in enumerate(self._names)}
        parents = {
            leaf: {other for other in others if leaf not in beside[other] or order[other] < order[leaf]}
            for leaf, others in beside.items()
        }
        return {
            self._names[leaf]: tuple(self._names[other] for other in sorted(own, key=order.__getitem__))
            for leaf, own in parents.items()
        }


def _leaf_names(tensors: Mapping[str, Sequence[Axis]]) -> dict[Axis, str]:
    """Returns a name for each leaf of a tensor that is not fixed: the first tensor and axis that has it."""
    names: dict[Axis, str] = {}
    for name, labels in tensors.items():
        for dim, axis in enumerate(labels):
            leaves = list(axis.leaves())
            for place, leaf in enumerate(leaves):
                if not leaf.is_fixed:
                    names.setdefault(leaf, f"{name}[{dim}]" + (f"[{place}]" if len(leaves) > 1 else ""))
    return names


def _orders(axes: Axes) -> bool:
    return any(_has_group(axis) for axis in axes)


def _has_group(axis: Structure) -> bool:
    return axis.group is not None if isinstance(axis, Part) else any(map(_has_group, axis.parts))


def _leaves(axes: Iterable[Axis]) -> Iterator[Axis]:
    for axis in axes:
        yield from (leaf for leaf in axis.leaves() if leaf.size > 1)


def _blocks(axes: Sequence[Axis]) -> Iterator[Block]:
    """Yields the leaves of each piece of a tensor that has one term of each sum."""
    for terms in combinations(*(list(_terms(axis)) for axis in axes)):
        yield frozenset().union(*terms)


def _terms(axis: Axis) -> Iterator[Block]:
    """Yields the leaves of each piece of an axis."""
    if axis.parts and axis.is_sum:
        for term in axis.terms():
            yield from _terms(term)
    elif axis.parts:
        yield from _blocks(axis.factors())
    else:
        yield frozenset([axis.root])
