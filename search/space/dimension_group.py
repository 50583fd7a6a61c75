"""What every group of dimensions has in common: the unit in which a space is read, asked and filled."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mergesearch.merge_ops.methods import Method, Scalar
from mergesearch.search.space.dimension import Dimension
from mergesearch.search.space.paths import Path, set_at

Usual = Callable[[str, Path | None], Scalar | None]
"""The usual value of a key: of the model entry at the path, or None for the recipe's own; None where it has none."""


@dataclass
class Draft:
    """A candidate's recipe while its holes are filled.

    Attributes:
        data: the recipe; groups of dimensions write into it.
        method: the candidate's merge method.
        values: the value of every dimension, by name.
        absent: the paths of the model entries that the candidate leaves out.
    """

    data: dict[str, Any]
    method: Method
    values: Mapping[str, Scalar]
    absent: frozenset[Path] = frozenset()


class DimensionGroup(Protocol):
    """Dimensions that belong together, and how they fill the recipe."""

    @property
    def dimensions(self) -> Sequence[Dimension]: ...

    def applies_to(self, method: Method) -> bool:
        """Whether a candidate of that method has these dimensions."""
        ...

    def fill(self, draft: Draft) -> None:
        """Writes what the draft's values say into its data."""
        ...

    def start(self, usual: Usual) -> dict[str, Scalar]:
        """The values nearest to the usual ones; else the middle of each range."""
        ...


@dataclass
class SingleDimension:
    """A group of one dimension, whose value replaces the holes at the dimension's paths; for every method."""

    dimension: Dimension

    @property
    def dimensions(self) -> Sequence[Dimension]:
        return [self.dimension]

    def applies_to(self, _: Method) -> bool:
        return True

    def fill(self, draft: Draft) -> None:
        for path in self.dimension.paths:
            set_at(draft.data, path, draft.values[self.dimension.name])

    def start(self, _: Usual) -> dict[str, Scalar]:
        return {self.dimension.name: self.dimension.middle}
