"""What slices have of their own: methods, and ranges of layers whose ends are searched for."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from mergesearch.errors import UserError, nearest
from mergesearch.merge_ops.methods import Method, Scalar, find_method
from mergesearch.search.space.dimension import TIE_KEYS, Hole, check_keys, is_hole, number_range
from mergesearch.search.space.parameters import OneHole
from mergesearch.search.space.paths import Path, slices_in, spelled

METHOD, RANGE = "merge_method", "layer_range"
BOUND_KEYS = ("search", "name", "step")


class Bound(OneHole):
    """Where the layers of a source begin or end; the same number may stand in several sources and slices."""


def own_methods(recipe: Mapping[str, Any], where: str) -> dict[Path, Method]:
    """The methods that slices have of their own, by the slice's path."""
    found = {}
    for path, piece in slices_in(recipe):
        name = piece.get(METHOD)
        if isinstance(name, dict):
            here = f"{where}: {spelled((*path, METHOD))}"
            raise UserError(f"{here}: a slice's own method cannot be a choice; that of the whole recipe can")
        if name is not None:
            found[path] = find_method(str(name))
    return found


def bounds(recipe: Mapping[str, Any], where: str) -> list[Bound]:
    """``layer_range: [0, {search: [low, high]}]``; ``{same_as: NAME}`` is the same number in another place."""
    specs = dict(_bound_places(recipe))
    asked = {path: spec for path, spec in specs.items() if "search" in spec}
    names = {path: str(spec.get("name", spelled(path))) for path, spec in asked.items()}
    tied = {path: _tied(path, spec, names, where) for path, spec in specs.items() if path not in asked}
    return [
        Bound(_hole(path, spec, names[path], [path, *(p for p, name in tied.items() if name == names[path])], where))
        for path, spec in asked.items()
    ]


def _bound_places(recipe: Mapping[str, Any]) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    for path, piece in slices_in(recipe):
        sources = piece.get("sources")
        for index, source in enumerate(sources if isinstance(sources, list) else []):
            ends = source.get(RANGE) if isinstance(source, dict) else None
            for side, end in enumerate(ends if isinstance(ends, list) else []):
                if is_hole(end):
                    yield (*path, "sources", index, RANGE, side), end


def _tied(path: Path, spec: Mapping[str, Any], names: Mapping[Path, str], where: str) -> str:
    here, name = f"{where}: {spelled(path)}", str(spec["same_as"])
    check_keys(spec, TIE_KEYS, here)
    if name not in names.values():
        raise UserError(f"{here}.same_as: there is no layer searched for {name!r}{nearest(name, names.values())}")
    return name


def _hole(path: Path, spec: Mapping[str, Any], name: str, paths: Sequence[Path], where: str) -> Hole:
    here = f"{where}: {spelled(path)}"
    check_keys(spec, BOUND_KEYS, here)
    if not isinstance(spec["search"], list) or len(spec["search"]) != 2:
        raise UserError(f"{here}: search: found {spec['search']!r}, expected [lowest, highest]")
    return Hole(name, number_range(spec, here, integer=True), tuple(paths), meaning="a layer")


def corners(found: Sequence[Bound]) -> Iterator[dict[str, Scalar]]:
    """The extreme values of each source's bounds.

    Numbers of layers are linear in the bounds: where none of these gives too few or too many, or differs from source to
    source of one slice, no other value does.
    """
    by_source: dict[Path, list[Hole]] = {}
    for bound in found:
        for path in bound.hole.paths:
            by_source.setdefault(path[:-1], []).append(bound.hole)
    for holes in by_source.values():
        for ends in product(*(hole.ends for hole in holes)):
            yield {hole.name: end for hole, end in zip(holes, ends, strict=True)}
