"""Searched ends of layer ranges: ``layer_range: [0, {search: [lowest, highest]}]`` in the sources of slices."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from mergesearch.errors import UserError, nearest
from mergesearch.merge_ops.methods import Scalar
from mergesearch.search.space.checks import check_keys
from mergesearch.search.space.dimension import Dimension
from mergesearch.search.space.dimension_group import SingleDimension
from mergesearch.search.space.paths import TIE_KEYS, Path, format_path, is_hole, iterate_slices
from mergesearch.search.space.ranges import read_range
from mergesearch.text import quoted

RANGE = "layer_range"
BOUND_KEYS = ("search", "name", "step")


class LayerBound(SingleDimension):
    """The first or the last layer of a source. Several sources and slices may share one, by ``same_as``."""


def read_layer_bounds(recipe: Mapping[str, Any], where: str) -> list[LayerBound]:
    """The holes in layer ranges, each with the holes that are tied to it."""
    specs = dict(_bound_holes(recipe))
    names = {path: str(spec.get("name", format_path(path))) for path, spec in specs.items() if "search" in spec}
    ties = {path: _tied_name(path, spec, names.values(), where) for path, spec in specs.items() if path not in names}
    return [
        LayerBound(_read_bound(specs[path], name, [path, *(p for p, tied in ties.items() if tied == name)], where))
        for path, name in names.items()
    ]


def _bound_holes(recipe: Mapping[str, Any]) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    for path, entry in iterate_slices(recipe):
        sources = entry.get("sources")
        for index, source in enumerate(sources if isinstance(sources, list) else []):
            ends = source.get(RANGE) if isinstance(source, dict) else None
            for side, end in enumerate(ends if isinstance(ends, list) else []):
                if is_hole(end):
                    yield (*path, "sources", index, RANGE, side), end


def _tied_name(path: Path, spec: Mapping[str, Any], names: Collection[str], where: str) -> str:
    at, name = f"{where}: {format_path(path)}", str(spec["same_as"])
    check_keys(spec, TIE_KEYS, at)
    if name not in names:
        raise UserError(f"{at}.same_as: there is no hole {name!r} in a layer_range{nearest(name, names)}")
    return name


def _read_bound(spec: Mapping[str, Any], name: str, paths: Sequence[Path], where: str) -> Dimension:
    at = f"{where}: {format_path(paths[0])}"
    check_keys(spec, BOUND_KEYS, at)
    if not isinstance(spec["search"], list) or len(spec["search"]) != 2:
        raise UserError(f"{at}.search: found {quoted(spec['search'])}, expected [lowest, highest]")
    return Dimension(name, read_range(spec, at, integer=True), tuple(paths), meaning="number of a layer")


def bound_corners(bounds: Sequence[LayerBound]) -> Iterator[dict[str, Scalar]]:
    """The extreme values of each source's bounds.

    The number of layers of a source is linear in its bounds. So if no extreme value gives too few or too many layers,
    or different numbers of layers for the sources of one slice, then no other value does.
    """
    by_source: dict[Path, list[Dimension]] = {}
    for bound in bounds:
        for path in bound.dimension.paths:
            by_source.setdefault(path[:-1], []).append(bound.dimension)
    for dimensions in by_source.values():
        for ends in product(*(dimension.ends for dimension in dimensions)):
            yield {dimension.name: end for dimension, end in zip(dimensions, ends, strict=True)}
