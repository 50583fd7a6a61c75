"""Holes in parameters: one value, a curve over depth, or a value for each group of layers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from optuna.distributions import BaseDistribution

from mergesearch.errors import UserError, listed, nearest
from mergesearch.merge_ops.methods import Method, Scalar
from mergesearch.search.space.checks import check_integer, check_keys
from mergesearch.search.space.dimension import Dimension
from mergesearch.search.space.dimension_group import Draft, Usual
from mergesearch.search.space.paths import Hole, Path, set_at
from mergesearch.search.space.ranges import SCALE_KEYS, read_distributions
from mergesearch.search.space.recipe_methods import Readers, methods_with
from mergesearch.text import quoted

DEPTH_KEYS = ("curve", "layers", "interpolation")
HOLE_KEYS = ("search", "name", *DEPTH_KEYS, *SCALE_KEYS, "sums_to")
MOST_KNOTS = 1000
INTERPOLATIONS = ("linear", "monotone")


@dataclass(frozen=True)
class DepthProfile:
    """How the values of a hole are laid out over depth.

    Attributes:
        form: one value for all layers, the knots of a linear or a monotone curve, or one value a group of layers.
        count: how many values there are.
        layers: the number of layers of the models.
    """

    form: Literal["single", "linear", "monotone", "groups"]
    count: int = 1
    layers: int = 1

    @classmethod
    def read(cls, spec: Mapping[str, Any], layers: int, where: str) -> "DepthProfile":
        """The profile that the keys ``curve``, ``interpolation`` and ``layers`` of a hole describe."""
        if "curve" in spec and "layers" in spec:
            raise UserError(f"{where}: found both curve and layers, expected one of them")
        if "layers" in spec:
            each = spec["layers"] == "each"
            count = layers if each else check_integer(spec["layers"], 1, layers, f"{where}.layers")
            return cls("groups", count, layers)
        form = spec.get("interpolation", "linear")
        if "interpolation" in spec and "curve" not in spec:
            raise UserError(f"{where}.interpolation: found {quoted(form)} without curve, expected curve: K beside it")
        if form not in INTERPOLATIONS:
            raise UserError(f"{where}.interpolation: found {quoted(form)}{nearest(str(form), INTERPOLATIONS)}")
        if "curve" not in spec:
            return cls("single")
        return cls(form, check_integer(spec["curve"], 2, MOST_KNOTS, f"{where}.curve"), layers)

    @property
    def suffixes(self) -> list[str]:
        """The end of the name of each value's dimension."""
        return [""] if self.form == "single" else [f"[{number}]" for number in range(self.count)]

    def paths(self, path: Path) -> list[tuple[Path, ...]]:
        """For each value, the places in the recipe that it decides; ``path`` is the hole's."""
        if self.form == "linear":
            return [((*path, index),) for index in range(self.count)]
        if self.form == "groups":
            return [tuple((*path, index) for index in group) for group in self._groups]
        return [(path,)] * self.count

    def spread(self, values: Sequence[Scalar]) -> Any:
        """The parameter's setting as a recipe has it.

        A list of values is mergekit's gradient: linear interpolation between values that are evenly spread over depth.
        """
        if self.form == "single":
            return values[0]
        if self.form == "linear":
            return list(values)
        if self.form == "monotone":
            return monotone([float(value) for value in values], self.layers)
        return [value for value, group in zip(values, self._groups, strict=True) for _ in group]

    @property
    def _groups(self) -> list[range]:
        """The layers of each group."""
        return [range(i * self.layers // self.count, (i + 1) * self.layers // self.count) for i in range(self.count)]


def monotone(knots: Sequence[float], layers: int) -> list[float]:
    """The value of each layer on a monotone cubic through knots that are evenly spread over depth.

    The cubic is smooth, and between two knots it never leaves their range. Source: PCHIP, Fritsch and Butland, SIAM
    J. Sci. Stat. Comput. 5, 1984.
    """
    import numpy as np
    from scipy.interpolate import PchipInterpolator

    depths = np.linspace(0, 1, layers) if layers > 1 else np.ones(1)
    curve = PchipInterpolator(np.linspace(0, 1, len(knots)), knots)(depths)
    return [float(value) for value in np.clip(curve, min(knots), max(knots))]


@dataclass
class ParameterDimensions:
    """The dimensions of one hole.

    Attributes:
        hole: the hole.
        profile: how its values are laid out over depth.
        dimensions: one dimension for each of the profile's values.
        readers: the methods that these dimensions are for.
        ties: for each hole that takes over the values, its parameter and the methods that read it there.
    """

    hole: Hole
    profile: DepthProfile
    dimensions: Sequence[Dimension]
    readers: Readers
    ties: list[tuple[str, Readers]] = field(default_factory=list)

    @property
    def extremes(self) -> list[Scalar]:
        """The two ends of the values' range, or all choices."""
        return self.dimensions[0].ends

    def fills(self, hole: Hole) -> bool:
        return self.hole.path == hole.path

    def applies_to(self, method: Method) -> bool:
        return any(readers.read(name, method) for name, readers in [(self.hole.parameter, self.readers), *self.ties])

    def fill(self, draft: Draft) -> None:
        values = [draft.values[dimension.name] for dimension in self.dimensions]
        set_at(draft.data, self.hole.path, self.profile.spread(values))

    def start(self, usual: Usual) -> dict[str, Scalar]:
        value = usual(self.hole.parameter, self.hole.owner)
        return {
            dimension.name: dimension.middle if value is None else dimension.nearest(value)
            for dimension in self.dimensions
        }


def read_parameter(hole: Hole, readers: Readers, layers: int, where: str) -> Iterator[ParameterDimensions]:
    """The dimensions of a hole: one group, or with ``search: auto`` one for each range that the methods declare."""
    check_keys(hole.spec, HOLE_KEYS, where)
    methods = methods_with(hole.parameter, readers.all, where)
    profile = _read_profile(hole, methods, layers, where)
    by_distribution = read_distributions(hole.spec, hole.parameter, methods, where)
    if len(by_distribution) == 1:
        (distribution,) = by_distribution
        yield ParameterDimensions(hole, profile, _dimensions(hole, profile, distribution, hole.name), readers)
        return
    if readers.fixed:
        raise UserError(
            f"{where}.search: found auto, but {listed(method.name for method in methods)} declare different ranges, "
            "and slices with methods of their own need the same one for all; expected [low, high]"
        )
    for distribution, users in by_distribution.items():
        name = f"{hole.name}@{'+'.join(method.name for method in users)}"
        dimensions = _dimensions(hole, profile, distribution, name)
        yield ParameterDimensions(hole, profile, dimensions, readers.narrowed(users))


def _read_profile(hole: Hole, methods: Sequence[Method], layers: int, where: str) -> DepthProfile:
    profile = DepthProfile.read(hole.spec, layers, where)
    if hole.in_gradient and profile.form != "single":
        key = next(key for key in DEPTH_KEYS if key in hole.spec)
        raise UserError(f"{where}.{key}: found inside of a gradient, expected a hole for a single value there")
    kinds = {found.kind for method in methods if (found := method.parameter(hole.parameter))} - {"number"}
    if profile.form == "monotone" and kinds:
        raise UserError(
            f"{where}.interpolation: found monotone, but {hole.parameter} is of type {min(kinds)}; expected "
            "linear, or a parameter that is a number"
        )
    return profile


def _dimensions(hole: Hole, profile: DepthProfile, distribution: BaseDistribution, name: str) -> list[Dimension]:
    """One dimension for each of the profile's values; ``name`` is the start of their names."""
    return [
        Dimension(f"{name}{suffix}", distribution, paths, hole.parameter)
        for suffix, paths in zip(profile.suffixes, profile.paths(hole.path), strict=True)
    ]
