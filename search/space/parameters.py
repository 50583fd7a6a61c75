"""Parameters' values: one number, a curve over depth, or a number for each group of layers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from mergesearch.errors import UserError, listed, nearest
from mergesearch.merge_ops.methods import Method, Scalar
from mergesearch.merge_ops.recipe.recipe import check_parameters
from mergesearch.search.space.dimension import (
    HOLE_KEYS,
    NUMBERS,
    SHAPE_KEYS,
    Hole,
    check_count,
    check_keys,
    distributions,
)
from mergesearch.search.space.paths import Path, Place, put

MOST_KNOTS = 1000
INTERPOLATIONS = ("linear", "monotone")


@dataclass
class Draft:
    """A candidate in the making. ``absent`` are the entries of models that it goes without, by their paths."""

    data: dict[str, Any]
    method: Method
    values: Mapping[str, Scalar]
    absent: frozenset[Path] = frozenset()


@dataclass(frozen=True)
class Readers:
    """The methods that read the parameters of a place: ``chosen`` is what the search chooses among, or has alone;
    ``fixed`` are slices' own, which every candidate has."""

    chosen: Sequence[Method]
    fixed: Sequence[Method] = ()

    @property
    def all(self) -> list[Method]:
        return [*self.chosen, *self.fixed]

    def read(self, parameter: str, method: Method) -> bool:
        """Whether a candidate of that method reads the parameter."""
        own = [method] if method in self.chosen else []
        return any(reader.parameter(parameter) for reader in [*own, *self.fixed])

    def narrowed(self, users: Sequence[Method]) -> "Readers":
        """Those of them that are among the users."""
        return Readers(*([reader for reader in part if reader in users] for part in (self.chosen, self.fixed)))


class Part(Protocol):
    """Some dimensions that belong together, and how they fill the recipe."""

    @property
    def holes(self) -> Sequence[Hole]: ...

    def asked_by(self, method: Method) -> bool:
        """Whether a candidate of that method has these dimensions."""
        ...

    def fill(self, draft: Draft) -> None:
        """Writes what the draft's values say into its data."""
        ...

    def start(self, usual: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """The values nearest to the usual ones, by parameter; else the middle."""
        ...


@dataclass
class OneHole:
    """A part of one dimension, whose value stands where its hole was; every method asks it unless it says otherwise."""

    hole: Hole

    @property
    def holes(self) -> Sequence[Hole]:
        return [self.hole]

    def asked_by(self, _: Method) -> bool:
        return True

    def fill(self, draft: Draft) -> None:
        for path in self.hole.paths:
            put(draft.data, path, draft.values[self.hole.name])

    def start(self, _: Mapping[str, Scalar]) -> dict[str, Scalar]:
        return {self.hole.name: self.hole.middle}


@dataclass(frozen=True)
class Shape:
    """How the numbers of a hole lie over depth: one for all, knots of a curve, or one a group of layers."""

    form: Literal["one", "linear", "monotone", "groups"]
    count: int = 1
    layers: int = 1

    @classmethod
    def read(cls, spec: Mapping[str, Any], layers: int, where: str) -> "Shape":
        if "curve" in spec and "layers" in spec:
            raise UserError(f"{where}: found both curve and layers, expected one of them")
        if "layers" in spec:
            each = spec["layers"] == "each"
            count = layers if each else check_count(spec["layers"], 1, layers, f"{where}.layers")
            return cls("groups", count, layers)
        form = spec.get("interpolation", "linear")
        if "interpolation" in spec and (form not in INTERPOLATIONS or "curve" not in spec):
            hint = nearest(str(form), INTERPOLATIONS) if "curve" in spec else "; it goes with curve"
            raise UserError(f"{where}.interpolation: found {form!r}{hint}")
        if "curve" not in spec:
            return cls("one")
        return cls(form, check_count(spec["curve"], 2, MOST_KNOTS, f"{where}.curve"), layers)

    @property
    def suffixes(self) -> list[str]:
        return [""] if self.form == "one" else [f"[{number}]" for number in range(self.count)]

    def paths(self, path: Path) -> list[tuple[Path, ...]]:
        """For each number, the places in the recipe that it decides."""
        if self.form == "linear":
            return [((*path, index),) for index in range(self.count)]
        if self.form == "groups":
            return [tuple((*path, index) for index in group) for group in self._groups]
        return [(path,)] * self.count

    def spread(self, values: Sequence[Scalar]) -> Any:
        """The setting as a recipe writes it: mergekit's gradients interpolate linearly between evenly spaced values."""
        if self.form == "one":
            return values[0]
        if self.form == "linear":
            return list(values)
        if self.form == "monotone":
            return monotone([float(value) for value in values], self.layers)
        return [value for value, group in zip(values, self._groups, strict=True) for _ in group]

    @property
    def _groups(self) -> list[range]:
        return [range(i * self.layers // self.count, (i + 1) * self.layers // self.count) for i in range(self.count)]


def monotone(knots: Sequence[float], layers: int) -> list[float]:
    """The value of every layer on the monotone cubic through evenly spaced knots.

    Fritsch and Butland's PCHIP (SIAM J. Sci. Stat. Comput. 5, 1984): smooth, and between two knots never beyond them.
    """
    import numpy as np
    from scipy.interpolate import PchipInterpolator

    depths = np.linspace(0, 1, layers) if layers > 1 else np.ones(1)
    found = PchipInterpolator(np.linspace(0, 1, len(knots)), knots)(depths)
    return [float(value) for value in np.clip(found, min(knots), max(knots))]


@dataclass
class Values:
    """The numbers of one hole, for those of the methods that ask it."""

    place: Place
    shape: Shape
    holes: Sequence[Hole]
    readers: Readers
    tied: list[tuple[str, Readers]] = field(default_factory=list)
    """Parameters of other places that take over the numbers, and who reads them there."""

    def asked_by(self, method: Method) -> bool:
        return any(readers.read(name, method) for name, readers in [(self.place.parameter, self.readers), *self.tied])

    def fill(self, draft: Draft) -> None:
        put(draft.data, self.place.path, self.shape.spread([draft.values[hole.name] for hole in self.holes]))

    def start(self, usual: Mapping[str, Scalar]) -> dict[str, Scalar]:
        wish = usual.get(self.place.parameter)
        return {hole.name: hole.middle if wish is None else hole.nearest(wish) for hole in self.holes}


def values_at(place: Place, readers: Readers, layers: int, where: str) -> Iterator[Values]:
    """The parts of a hole: one, or with ``search: auto`` one for each range that the methods name."""
    check_keys(place.spec, HOLE_KEYS, where)
    known = methods_with(place.parameter, readers.all, where)
    shape = Shape.read(place.spec, layers, where)
    if place.in_list and shape.form != "one":
        key = next(key for key in SHAPE_KEYS if key in place.spec)
        raise UserError(f"{where}.{key}: stands inside of a gradient, expected one value there")
    _check_monotone(place, shape, known, where)
    asked = distributions(place.spec, place.parameter, known, where)
    if len(asked) > 1 and readers.fixed:
        raise UserError(
            f"{where}: search: auto: {listed(method.name for method in known)} name different ranges, and "
            "slices with methods of their own need one for all; expected [low, high]"
        )
    for distribution, users in asked.items():
        name = place.name if len(asked) == 1 else f"{place.name}@{'+'.join(method.name for method in users)}"
        holes = [
            Hole(f"{name}{suffix}", distribution, paths, place.parameter)
            for suffix, paths in zip(shape.suffixes, shape.paths(place.path), strict=True)
        ]
        yield Values(place, shape, holes, readers if len(asked) == 1 else readers.narrowed(users))


def methods_with(parameter: str, methods: Sequence[Method], where: str) -> list[Method]:
    """The methods that have the parameter; raises UserError where there is none."""
    known = [method for method in methods if method.parameter(parameter)]
    if not known:
        check_parameters({parameter: 0}, where.removesuffix(f".{parameter}"), methods)
        raise UserError(f"{where}: no method of this search has the parameter {parameter!r}")
    return known


def _check_monotone(place: Place, shape: Shape, methods: Sequence[Method], where: str) -> None:
    kinds = {found.kind for method in methods if (found := method.parameter(place.parameter))}
    if shape.form == "monotone" and not kinds <= {NUMBERS[0]}:
        raise UserError(f"{where}.interpolation: monotone is for numbers, {place.parameter} is a {kinds.pop()}")
