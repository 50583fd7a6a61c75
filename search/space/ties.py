"""Ties: ``{same_as: NAME}`` takes over the value, or the values over depth, of another hole."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mergesearch.errors import UserError, nearest
from mergesearch.search.space.checks import check_keys
from mergesearch.search.space.dimension_group import Draft
from mergesearch.search.space.parameters import ParameterDimensions
from mergesearch.search.space.paths import TIE_KEYS, Hole, get_at, set_at
from mergesearch.search.space.ranges import read_values
from mergesearch.search.space.recipe_methods import Readers, RecipeMethods, methods_with
from mergesearch.search.space.simplex import Simplex
from mergesearch.text import quoted


@dataclass(frozen=True)
class Tie:
    """A hole that takes over the setting of another one, ``source``, for the methods that read it."""

    hole: Hole
    source: Hole
    readers: Readers

    def fill(self, draft: Draft) -> None:
        """Copies the setting. The source must be filled."""
        if self.readers.read(self.hole.parameter, draft.method):
            set_at(draft.data, self.hole.path, copy.deepcopy(get_at(draft.data, self.source.path)))


def read_ties(
    holes: Sequence[Hole], groups: Sequence[ParameterDimensions | Simplex], methods: RecipeMethods, where: str
) -> Iterator[Tie]:
    """The ties among the holes. ``groups``, the dimensions of all holes, are asked wherever a tie needs them."""
    by_name = {hole.name: hole for hole in holes}
    for hole in (hole for hole in holes if "same_as" in hole.spec):
        at = f"{where}: {hole.where}"
        check_keys(hole.spec, TIE_KEYS, at)
        tie = Tie(hole, _find_source(hole, by_name, at), methods.readers_at(hole.path))
        _link(tie, [group for group in groups if group.fills(tie.source)], methods, at)
        yield tie


def _find_source(hole: Hole, by_name: Mapping[str, Hole], where: str) -> Hole:
    """The hole with dimensions that a tie leads to, through other ties where need be."""
    visited = [hole.name]
    while "same_as" in hole.spec:
        name = hole.spec["same_as"]
        if not isinstance(name, str) or name not in by_name:
            raise UserError(f"{where}.same_as: there is no hole {quoted(name)}{nearest(str(name), by_name)}")
        if name in visited:
            cycle = " -> ".join([*visited, str(name)])
            raise UserError(f"{where}.same_as: found the cycle {cycle}, expected a tie to a hole with search")
        visited.append(str(name))
        hole = by_name[name]
    return hole


def _link(tie: Tie, sources: Sequence[ParameterDimensions | Simplex], methods: RecipeMethods, where: str) -> None:
    """Makes the sources' dimensions apply wherever the tied hole needs them. Raises UserError where that cannot be."""
    parameter, readers, name = tie.hole.parameter, tie.readers, tie.source.name
    if tie.hole.in_gradient and ("curve" in tie.source.spec or "layers" in tie.source.spec):
        raise UserError(
            f"{where}.same_as: {name!r} has several values over depth, expected a hole with a single value: "
            "this one is inside of a gradient"
        )
    users = methods_with(parameter, readers.all, where)
    parameters = [found for method in users if (found := method.parameter(parameter))]
    for group in sources:
        read_values(parameters, group.extremes, f"{where}.same_as: the values of {name!r} do not fit {parameter}")
        if isinstance(group, ParameterDimensions):
            group.ties.append((parameter, readers.narrowed(group.readers.all) if len(sources) > 1 else readers))
    for method in methods.searched:
        if readers.read(parameter, method) and sum(group.applies_to(method) for group in sources) != 1:
            raise UserError(
                f"{where}.same_as: {name!r} has no dimension for {method.name}, expected a hole that has one for "
                f"every method with the parameter {parameter!r}"
            )
