"""The permutations that make one model most similar to another: weight matching, and matching by what else is alike.

Ainsworth et al. 2022, Git Re-Basin, arXiv:2209.04836, algorithm 1: the sum of the inner products of both models'
tensors is maximized by one group after the other, each by a linear assignment problem. Here, the first pass takes the
groups in the order in which they are tied to what is fixed already (inputs, outputs and vocabularies, then their
neighbours), and only counts tensors all of whose other groups are matched. So a permuted copy is found whatever its
weights are. Heads, groups of heads, and experts are compared by the best assignment of what is inside them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mergesearch.merge_ops.alignment.spec import Axes, AxisGroups, Group, blocks, groups_in, permuted
from mergesearch.seeds import derive

TOLERANCE = 1e-6
"""The smallest gain that counts, as a part of the product of the norms: what rounding makes is smaller."""
MOST_PASSES = 100


@dataclass(frozen=True)
class Source:
    """A pair of tensors of which corresponding entries should be alike: weights, or activations of shape (rows, units).

    Attributes:
        axes: the structure of their axes.
        anchor: that of the model that the other is aligned to.
        model: that of the model whose entries are permuted.
    """

    axes: Axes
    anchor: Tensor
    model: Tensor


@dataclass(frozen=True)
class Matched:
    """The result of a matching.

    Attributes:
        permutations: the permutations of all groups.
        before: the cosine of the model's tensors and the anchor's, as they were.
        after: the same in the new order.
    """

    permutations: dict[str, Tensor]
    before: float
    after: float


def weight_sources(spec: AxisGroups, anchor: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> dict[str, Source]:
    """Returns the models' own tensors as what to match by: their distance becomes small.

    Tensors of other shapes, as of other vocabularies, tell nothing.
    """
    shared = (name for name in spec.tensors if name in anchor and anchor[name].shape == model[name].shape)
    return {name: Source(spec.tensors[name], anchor[name], model[name]) for name in shared}


def match(spec: AxisGroups, sources: Mapping[str, Source], seed: int = 0) -> Matched:
    """Returns the permutations of the model that bring its tensors nearest to the anchor's.

    Args:
        spec: the groups.
        sources: what is compared; it need not tell of all groups.
        seed: the seed of the order in which groups are improved.
    """
    return _Matching(spec, sources).run(seed)


@dataclass(frozen=True)
class _Block:
    """A piece of a source with one group, or none, on each dimension."""

    labels: tuple[str | None, ...]
    anchor: Tensor
    model: Tensor

    def others(self, known: set[str]) -> set[str]:
        """The groups of the block that are not among the known ones. One that occurs twice is not known."""
        return {name for name in self.labels if name is not None and (name not in known or self.labels.count(name) > 1)}

    def tables(self, *heads: str) -> tuple[Tensor, Tensor]:
        """Returns both tensors with these groups in front, and all else as the last dimension; float64.

        Products of float32 depend on the processor and on the number of threads, and near ties on the products.
        """
        first = [self.labels.index(name) for name in heads]
        order = [*first, *(dim for dim in range(len(self.labels)) if dim not in first)]
        shape = (*(self.anchor.shape[dim] for dim in first), -1)
        anchor, model = (own.permute(order).reshape(shape).double() for own in (self.anchor, self.model))
        return anchor, model

    def turned(self, name: str) -> Iterator["_Block"]:
        """Yields the block once for each dimension of the group, with the others of them as no group's."""
        dims = [dim for dim, label in enumerate(self.labels) if label == name]
        for kept in dims:
            labels = tuple(None if dim in dims and dim != kept else own for dim, own in enumerate(self.labels))
            yield _Block(labels, self.anchor, self.model)


class _Matching:
    """A model on its way to the anchor."""

    def __init__(self, spec: AxisGroups, sources: Mapping[str, Source]) -> None:
        self._spec, self._groups = spec, spec.groups
        self._axes = {name: source.axes for name, source in sources.items()}
        self._anchor = {name: _widened(source.anchor) for name, source in sources.items()}
        self._model = {name: _widened(source.model) for name, source in sources.items()}
        self._where = {
            group: [name for name, axes in self._axes.items() if any(group in groups_in(axis) for axis in axes)]
            for group in self._groups
        }
        self._scale = sum(map(_norm, self._anchor.values(), self._model.values())) or 1.0
        self.permutations = spec.identity()

    def run(self, seed: int) -> Matched:
        before = self._likeness(self._axes)
        self._settle()
        self._improve(seed)
        return Matched(self.permutations, before / self._scale, self._likeness(self._axes) / self._scale)

    def _settle(self) -> None:
        """Matches every group once, those first that are tied most to groups that are matched already."""
        settled: set[str] = set()
        while len(settled) < len(self._groups):
            ready = [g for g in self._groups.values() if g.name not in settled and settled.issuperset(g.parents)]
            shares = [self._share(group, settled) for group in ready]
            group = ready[int(np.argmax(shares))]
            self._update(group, settled if max(shares) > 0 else None, 0.0)
            settled.add(group.name)

    def _improve(self, seed: int) -> None:
        random = np.random.default_rng(derive(seed, "alignment"))
        names = list(self._groups)
        for _ in range(MOST_PASSES):
            order = [names[at] for at in random.permutation(len(names))]
            improved = [self._update(self._groups[name], None, TOLERANCE) for name in order]
            if not any(improved):
                return

    def _share(self, group: Group, settled: set[str]) -> float:
        """Returns which part of the numbers that tell of a group can be compared already."""
        sizes = [(block.anchor.numel(), block) for block in self._blocks(group.name)]
        known = self._known(group) | settled
        return sum(size for size, block in sizes if not block.others(known)) / (sum(size for size, _ in sizes) or 1)

    def _update(self, group: Group, settled: set[str] | None, tolerance: float) -> bool:
        """Matches one group by what is known of the others. Returns whether that was an improvement."""
        known = self._known(group)
        found = [each for block in self._blocks(group.name) for each in block.turned(group.name)]
        if settled is not None:
            found = [block for block in found if not block.others(known | settled)]
        if not found:
            return False
        step = _Assignment(self._groups, group, known - {group.name, *group.parents}, found).permutations()
        names = list(dict.fromkeys(name for own in step for name in self._where[own]))
        before = self._likeness(names)
        kept = {name: self._model[name] for name in names}
        self._model |= {n: permuted(self._groups, step, self._axes[n], self._model[n]) for n in names}
        if settled is None and self._likeness(names) <= before + tolerance * self._scale:
            self._model |= kept
            return False
        self.permutations = self._spec.composed(self.permutations, {**self._spec.identity(), **step})
        return True

    def _known(self, group: Group) -> set[str]:
        """The group, its parents, and the groups inside each of its entries, which are assigned along with it."""
        outer = {group.name, *group.parents}
        return outer | {
            name for name in self._spec.descendants(group.name) if outer.issuperset(self._groups[name].parents)
        }

    def _blocks(self, group: str) -> Iterator[_Block]:
        for name in self._where[group]:
            pairs = zip(
                blocks(self._anchor[name], self._axes[name]), blocks(self._model[name], self._axes[name]), strict=True
            )
            for (anchor, labels), (model, _) in pairs:
                if group in labels:
                    yield _Block(labels, anchor, model)

    def _likeness(self, names: Any) -> float:
        return sum(float((self._anchor[name] * self._model[name]).sum(dtype=torch.float64)) for name in names)


class _Assignment:
    """The best permutation of one group, and of the groups inside its entries (``children``), by some blocks."""

    def __init__(self, groups: Mapping[str, Group], group: Group, children: set[str], found: Sequence[_Block]) -> None:
        self._groups, self._group, self._children = groups, group, sorted(children)
        self._heads = (*group.parents, group.name)
        self._sizes = [groups[parent].size for parent in group.parents]
        inside = [(block, [name for name in self._children if name in block.labels]) for block in found]
        self._plain = [block for block, names in inside if not names]
        self._single = {name: [b for b, names in inside if names == [name]] for name in self._children}
        self._mixed = [(block, names) for block, names in inside if len(names) > 1]

    def permutations(self) -> dict[str, Tensor]:
        """Returns the permutation of the group, and that of each child."""
        size, children = self._group.size, self._children
        result: dict[str, Tensor] = {self._group.name: torch.empty((*self._sizes, size), dtype=torch.int64)}
        result |= {c: torch.empty((*self._sizes, size, self._groups[c].size), dtype=torch.int64) for c in children}
        plain = sum((_products(*block.tables(*self._heads)) for block in self._plain), start=torch.zeros(()))
        plain = plain.expand(*self._sizes, size, size).to("cpu", torch.float64)
        for place in product(*map(range, self._sizes)):
            values, inner = self._pairs(place, plain[place].numpy().copy())
            order = _assigned(values)
            result[self._group.name][place] = torch.from_numpy(order)
            for child in children:
                result[child][place] = torch.stack([inner[row, int(order[row])][child] for row in range(size)])
        return {name: self._arranged(name, own) for name, own in result.items()}

    def _pairs(
        self, place: tuple[int, ...], values: np.ndarray
    ) -> tuple[np.ndarray, dict[tuple[int, int], dict[str, Tensor]]]:
        """Adds to the value of each pair of entries that of what is inside them, at the best inner assignment."""
        inner: dict[tuple[int, int], dict[str, Tensor]] = {}
        single = {
            child: [(a[place], b[place]) for a, b in (block.tables(*self._heads, child) for block in found)]
            for child, found in self._single.items()
        }
        mixed = [(a[place], b[place], n) for a, b, n in ((*b.tables(*self._heads, *n), n) for b, n in self._mixed)]
        if not self._children:
            return values, inner
        for row, column in product(range(self._group.size), repeat=2):
            chosen = inner[row, column] = {}
            for child, tables in single.items():
                size = self._groups[child].size
                total = sum((a[row] @ b[column].T for a, b in tables), start=torch.zeros(1, 1))
                likeness = total.expand(size, size).to("cpu", torch.float64).numpy()
                order = _assigned(likeness)
                chosen[child] = torch.from_numpy(order)
                values[row, column] += likeness[np.arange(len(order)), order].sum()
            for a, b, names in mixed:
                other = b[column]
                for dim, child in enumerate(names):
                    other = other.index_select(dim, chosen[child].to(other.device))
                values[row, column] += float((a[row] * other).sum())
        return values, inner

    def _arranged(self, name: str, permutation: Tensor) -> Tensor:
        """Returns a permutation with its parents in the order of its group."""
        if name == self._group.name:
            return permutation
        order = [self._heads.index(parent) for parent in self._groups[name].parents]
        return permutation.permute(*order, -1)


def _products(anchor: Tensor, model: Tensor) -> Tensor:
    return anchor @ model.mT


def _assigned(values: np.ndarray) -> np.ndarray:
    """Returns the column of each row at which the sum of the values is largest."""
    from scipy.optimize import linear_sum_assignment

    columns: np.ndarray = linear_sum_assignment(values, maximize=True)[1]
    return columns.astype(np.int64)


def _widened(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))


def _norm(anchor: Tensor, model: Tensor) -> float:
    return float(anchor.norm(dtype=torch.float64) * model.norm(dtype=torch.float64))
