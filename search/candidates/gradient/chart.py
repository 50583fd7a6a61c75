"""A space around one point of a method as a unit cube, with the merge coefficients as a function of its coordinates."""

from collections.abc import Mapping
from functools import cached_property

import numpy as np
from optuna.distributions import FloatDistribution

from mergesearch.merge_ops.engine.engine import Engine
from mergesearch.merge_ops.methods import Method, Scalar
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.samplers import from_unit, to_unit
from mergesearch.search.space.space import Space
from mergesearch.search.statistics import Array
from mergesearch.seeds import derive

PROBES = 3
WIDTH = 1e-3
"""Of a difference quotient, as a part of the range: the map is smooth, and its numbers are float64."""


class Chart:
    """The continuous dimensions of a method around one point, as coordinates from 0 to 1; the others stay fixed."""

    def __init__(self, space: Space, engine: Engine, method: Method, point: Mapping[str, Scalar]) -> None:
        self._space, self._engine, self._method, self._point = space, engine, method, dict(point)
        dimensions = [
            dimension
            for dimension in space.dimensions_of(method)
            if isinstance(dimension.distribution, FloatDistribution)
        ]
        self._ranges = {
            dimension.name: dimension.distribution for dimension in dimensions if not dimension.distribution.single()
        }

    @property
    def origin(self) -> Array:
        """[dimensions], the coordinates of the point."""
        return np.array([to_unit(distribution, self._point[name]) for name, distribution in self._ranges.items()])

    def point(self, units: Array) -> dict[str, Scalar]:
        """The point of the space at these coordinates."""
        ranges = zip(self._ranges.items(), units, strict=True)
        return {**self._point, **{name: from_unit(distribution, unit) for (name, distribution), unit in ranges}}

    def recipe(self, units: Array) -> Recipe:
        return self._space.fill(self._method, self.point(units))

    def coefficients(self, units: Array) -> Array:
        """[tensors · (1 + models)], in the order of the tensors' names."""
        coefficients = self._engine.coefficients(self.recipe(units))
        assert coefficients is not None
        return np.array([number for numbers in coefficients.values() for number in numbers])

    def jacobian(self, units: Array) -> Array:
        """[coefficients, dimensions] at these coordinates."""
        return self._constant if self._constant is not None else self._differences(units)

    @cached_property
    def _constant(self) -> Array | None:
        """The Jacobian where it is the same everywhere; None where the map is not affine, as the first probe shows."""
        middle = np.full(len(self._ranges), 0.5)
        jacobian, centre = self._differences(middle), self.coefficients(middle)
        rng = np.random.default_rng(derive("probe"))
        for probe in rng.random((PROBES, len(middle))):
            if not np.allclose(centre + jacobian @ (probe - middle), self.coefficients(probe), rtol=1e-9, atol=1e-9):
                return None
        return jacobian

    def _differences(self, units: Array) -> Array:
        return np.stack([self._difference(units, index) for index in range(len(units))], axis=1)

    def _difference(self, units: Array, index: int) -> Array:
        low, high = units.copy(), units.copy()
        low[index], high[index] = max(units[index] - WIDTH, 0.0), min(units[index] + WIDTH, 1.0)
        column: Array = (self.coefficients(high) - self.coefficients(low)) / (high[index] - low[index])
        return column
