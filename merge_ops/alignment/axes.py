"""Axes while a model is traced: which are the same axis, and how views divide them.

An axis is a leaf, a product of axes (rows of a matrix that a view makes of (heads, size of a head)), or a sum of axes
one behind the other (the three thirds of a fused QKV). Two axes that an operation pairs entry by entry are joined. If
one of them is divided, so is the other.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from math import prod


class Axis:
    """An axis of ``size`` entries, a node of a union-find. ``fixed`` leaves must keep the order of their entries."""

    __slots__ = ("__weakref__", "_fixed", "_is_sum", "_link", "_parts", "size")

    def __init__(self, size: int, fixed: bool = False) -> None:
        self.size = size
        self._fixed = fixed or size <= 1
        self._parts: tuple[Axis, ...] = ()
        self._is_sum = False
        self._link: Axis | None = None

    @property
    def root(self) -> "Axis":
        """The axis that all axes joined to this one are."""
        node = self
        while node._link is not None:
            node = node._link
        return node

    @property
    def parts(self) -> tuple["Axis", ...]:
        """The factors of a product or the terms of a sum; none of a leaf."""
        return self.root._parts

    @property
    def is_sum(self) -> bool:
        """Whether the parts are terms."""
        return self.root._is_sum

    @property
    def is_fixed(self) -> bool:
        """Whether no entry may move."""
        root = self.root
        return all(part.is_fixed for part in root._parts) if root._parts else root._fixed

    def fix(self) -> None:
        """Fixes all entries."""
        for leaf in self.leaves():
            leaf._fixed = True

    def leaves(self) -> Iterator["Axis"]:
        """Yields the roots of the leaves, in their order."""
        root = self.root
        if root._parts:
            for part in root._parts:
                yield from part.leaves()
        else:
            yield root

    def factors(self) -> tuple["Axis", ...]:
        """The factors that are no products themselves; those of size 1 are left out."""
        root = self.root
        if root._parts and not root._is_sum:
            return tuple(factor for part in root._parts for factor in part.factors())
        return (root,) if root.size != 1 else ()

    def terms(self) -> tuple["Axis", ...]:
        """The terms that are no sums themselves."""
        root = self.root
        return tuple(term for part in root._parts for term in part.terms()) if root._is_sum else (root,)

    def join(self, other: "Axis") -> None:
        """Makes both the same axis. Where that is more than can be said of them, all their entries are fixed."""
        if not _joined(self.root, other.root):
            self.fix()
            other.fix()

    def cut(self, *bounds: int) -> list["Axis"]:
        """Returns the pieces between these bounds, from 0 to the size."""
        sizes = [high - low for low, high in zip((0, *bounds), (*bounds, self.size), strict=True)]
        pieces = [Axis(size) for size in sizes if size]
        self.join(in_a_row(pieces))
        return pieces

    def _divide(self, parts: Sequence["Axis"], is_sum: bool) -> None:
        self._parts, self._is_sum = tuple(parts), is_sum
        if self._fixed:
            for part in parts:
                part.fix()


def product(parts: Sequence[Axis]) -> Axis:
    """Returns the axis that a view makes of neighbouring axes, the last of which runs fastest."""
    kept = [part for part in parts if part.size != 1]
    return _composed(kept, prod(part.size for part in parts), is_sum=False)


def in_a_row(parts: Sequence[Axis]) -> Axis:
    """Returns the axis of these axes one behind the other."""
    return _composed([part for part in parts if part.size], sum(part.size for part in parts), is_sum=True)


def _composed(parts: Sequence[Axis], size: int, is_sum: bool) -> Axis:
    if len(parts) == 1:
        return parts[0].root
    whole = Axis(size)
    if parts:
        whole._divide(parts, is_sum)
    return whole


def viewed(axes: Sequence[Axis], shape: Sequence[int]) -> list[Axis]:
    """Returns the axes of a view of contiguous axes in another shape."""
    result: list[Axis] = []
    source, wanted = list(axes), list(shape)
    while source or wanted:
        group, sizes = _next_group(source, wanted)
        if len(group) == 1 and len(sizes) == 1:
            result.append(group[0])
            continue
        whole, parts = product(group), [Axis(size) for size in sizes]
        if sizes:
            whole.join(product(parts))
        result += parts
    return result


def _next_group(source: list[Axis], wanted: list[int]) -> tuple[list[Axis], list[int]]:
    """Takes the shortest beginnings of both that have equally many entries; a size of 1 alone is one."""
    group = [source.pop(0)] if source else []
    sizes = [wanted.pop(0)] if wanted else []
    while (have := prod(a.size for a in group)) != (need := prod(sizes)):
        if have < need:
            group.append(source.pop(0))
        else:
            sizes.append(wanted.pop(0))
    return group, sizes


def _joined(one: Axis, other: Axis) -> bool:
    """Joins two roots. Returns whether it could be done."""
    if one is other:
        return True
    if one.size != other.size:
        return False
    for leaf, target in ((one, other), (other, one)):
        if not leaf._parts:
            if leaf._fixed:
                target.fix()
            leaf._link = target
            return True
    if one._is_sum != other._is_sum:
        factors, terms = (other, one) if one._is_sum else (one, other)
        return _distributed(factors, [term.size for term in terms.terms()]) and _paired(
            _Row(factors.root), _Row(terms.root)
        )
    kind: Callable[[Axis], _Row | _Grid] = _Row if one._is_sum else _Grid
    if not _paired(kind(one), kind(other)):
        return False
    if one.root is not other.root:
        one.root._link = other.root
    return True


class _Row:
    """The terms of a sum, taken from the front."""

    def __init__(self, axis: Axis) -> None:
        self.rest = list(reversed(axis.terms()))

    def take(self, size: int) -> Axis | None:
        """Takes the next ``size`` entries. Divides the next term where it is longer."""
        term = self.rest.pop().root
        if term.size == size:
            return term
        parts = _split_sum(term, size)
        if parts is None:
            return None
        self.rest.append(parts[1])
        return parts[0]


class _Grid:
    """The factors of a product, taken from the last."""

    def __init__(self, axis: Axis) -> None:
        self.rest = list(axis.factors())

    def take(self, size: int) -> Axis | None:
        """Takes the last ``size`` of the entries that run fastest. Divides the last factor where it is larger."""
        factor = self.rest.pop().root
        if factor.size == size:
            return factor
        if factor._parts or factor.size % size:
            return None
        parts = Axis(factor.size // size), Axis(size)
        factor._divide(parts, is_sum=False)
        self.rest.append(parts[0])
        return parts[1]


def _paired(one: _Row | _Grid, other: _Row | _Grid) -> bool:
    while one.rest and other.rest:
        size = min(one.rest[-1].size, other.rest[-1].size)
        taken = one.take(size), other.take(size)
        if taken[0] is None or taken[1] is None or not _joined(taken[0].root, taken[1].root):
            return False
    return not one.rest and not other.rest


def _split_sum(axis: Axis, size: int) -> tuple[Axis, Axis] | None:
    """Divides an axis after ``size`` entries. Returns the two parts, or None if that is inside an inner entry."""
    if not axis._parts:
        parts = Axis(size), Axis(axis.size - size)
        axis._divide(parts, is_sum=True)
        return parts
    if not _distributed(axis, [size, axis.size - size]):
        return None
    terms = axis.root.terms()
    at = list(accumulate(term.size for term in terms)).index(size) + 1
    return in_a_row(terms[:at]), in_a_row(terms[at:])


def _distributed(axis: Axis, sizes: Sequence[int]) -> bool:
    """Turns a product into a sum of terms of these sizes: that of its first factor, each times the other factors.

    Returns whether the bounds are between entries of the first factor.
    """
    first, *others = axis.factors()
    inner = axis.size // first.size
    if any(size % inner for size in sizes):
        return False
    pieces = [Axis(size // inner) for size in sizes]
    if not _joined(first, in_a_row(pieces).root):
        return False
    terms = [product([piece, *others]) for piece in first.root.terms()]
    axis._divide(terms, is_sum=True)
    return True
