"""Search spaces: recipes with holes.

``{search: [low, high]}`` or ``{search: [choices]}`` may stand for the merge method and for any parameter's value; with
``curve: K`` it stands for K values spread evenly over depth, between which mergekit's gradients interpolate, and with
``layers: each`` or ``layers: N`` for one value a layer, or a group of layers.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from mergesearch.errors import UserError, nearest
from mergesearch.merge_ops.methods import PARAMETER_NAMES, Method, Parameter, Scalar, find_method
from mergesearch.merge_ops.recipe import Recipe, check_parameters
from mergesearch.search.places import Path, Place, places

HOLE_KEYS = ("search", "curve", "layers")
METHOD = "merge_method"


@dataclass(frozen=True)
class Hole:
    """One dimension: what Optuna calls it, what it asks, and the places in the recipe that its value fills."""

    name: str
    distribution: BaseDistribution
    paths: tuple[Path, ...]
    parameter: str | None

    @property
    def described(self) -> str:
        """The range or the choices, in words."""
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return ", ".join(map(str, choices))
            case FloatDistribution(low=low, high=high) | IntDistribution(low=low, high=high):
                return f"{low:g} to {high:g}"
        raise TypeError(f"unknown distribution {self.distribution}")

    def ask(self, trial: Trial) -> Scalar:
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return trial.suggest_categorical(self.name, choices)  # type: ignore[return-value]
            case FloatDistribution(low=low, high=high):
                return trial.suggest_float(self.name, low, high)
            case IntDistribution(low=low, high=high):
                return trial.suggest_int(self.name, low, high)
        raise TypeError(f"unknown distribution {self.distribution}")

    def nearest(self, value: Scalar) -> Scalar:
        """The value of the hole that is nearest to this one."""
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return value if value in choices else choices[0]  # type: ignore[return-value]
            case FloatDistribution(low=low, high=high) | IntDistribution(low=low, high=high):
                return min(max(value, low), high)
        raise TypeError(f"unknown distribution {self.distribution}")


class Space:
    """All candidates of a run. ``layers`` is the depth of the models, which ``layers: each`` needs."""

    def __init__(self, recipe: Mapping[str, Any], layers: int, where: str) -> None:
        self._where = where
        self._template = copy.deepcopy(dict(recipe))
        self.methods = [find_method(name) for name in _method_names(recipe, where)]
        self.holes = list(self._punch(layers))
        self._check()

    def holes_of(self, method: Method) -> list[Hole]:
        """What is asked for a candidate of this method: the holes in parameters that it has."""
        return [hole for hole in self.holes if hole.parameter and method.parameter(hole.parameter)]

    @property
    def is_conditional(self) -> bool:
        """Whether the method's choice decides what else is asked."""
        asked = {tuple(hole.name for hole in self.holes_of(method)) for method in self.methods}
        return len(asked) > 1

    @property
    def has_choices(self) -> bool:
        return any(isinstance(hole.distribution, CategoricalDistribution) for hole in self.holes)

    @cached_property
    def models(self) -> list[str]:
        return [entry["model"] for entry in self._template["models"]]

    @property
    def base(self) -> str | None:
        return self._template.get("base_model")

    def ask(self, trial: Trial) -> Recipe:
        """A candidate: the method first, then what it has."""
        values: dict[str, Scalar] = {hole.name: hole.ask(trial) for hole in self.holes if hole.name == METHOD}
        method = find_method(str(values.get(METHOD, self.methods[0].name)))
        values |= {hole.name: hole.ask(trial) for hole in self.holes_of(method)}
        return self.fill(method, values)

    def fill(self, method: Method, values: Mapping[str, Scalar]) -> Recipe:
        """The recipe with these values in its holes; parameters that the method has not are left out."""
        data = copy.deepcopy(self._template)
        data[METHOD] = method.name
        for hole in self.holes_of(method):
            for path in hole.paths:
                _put(data, path, values[hole.name])
        _drop_foreign(data, method)
        return Recipe.read(data, self._where)

    def start(self, method: Method, usual: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """The point of the space that is nearest to a method's usual settings, or to the middle of the ranges."""
        point: dict[str, Scalar] = {METHOD: method.name} if len(self.methods) > 1 else {}
        for hole in self.holes_of(method):
            wish = usual.get(str(hole.parameter))
            point[hole.name] = _middle(hole.distribution) if wish is None else hole.nearest(wish)
        return point

    def _punch(self, layers: int) -> Iterator[Hole]:
        if isinstance(self._template.get(METHOD), dict):
            names = tuple(method.name for method in self.methods)
            yield Hole(METHOD, CategoricalDistribution(names), ((METHOD,),), None)
        for place in places(self._template):
            yield from self._holes_at(place, layers)

    def _holes_at(self, place: "Place", layers: int) -> Iterator[Hole]:
        distribution = self._distribution(place)
        groups = _groups(place.spec, layers, f"{self._where}: {place.where}")
        if groups is None:
            yield Hole(place.name, distribution, (place.path,), place.parameter)
            return
        _put(self._template, place.path, [None] * sum(map(len, groups)))
        for number, group in enumerate(groups):
            paths = tuple((*place.path, index) for index in group)
            yield Hole(f"{place.name}[{number}]", distribution, paths, place.parameter)

    def _distribution(self, place: "Place") -> BaseDistribution:
        where = f"{self._where}: {place.where}"
        parameters = [method.parameter(place.parameter) for method in self.methods]
        known = [parameter for parameter in parameters if parameter]
        if not known:
            check_parameters({place.parameter: 0}, where.removesuffix(f".{place.parameter}"), self.methods)
            raise UserError(f"{where}: no method of this search has the parameter {place.parameter!r}")
        return _distribution(place.spec, known, where)

    def _check(self) -> None:
        """Reads one candidate of each method, which finds whatever is wrong beside the holes."""
        for method in self.methods:
            point = self.start(method, {})
            self.fill(method, point)


def _method_names(recipe: Mapping[str, Any], where: str) -> list[str]:
    method = recipe.get(METHOD)
    if isinstance(method, str):
        return [method]
    if isinstance(method, dict) and set(method) == {"search"} and isinstance(method["search"], list):
        return list(dict.fromkeys(map(str, method["search"])))
    raise UserError(f"{where}: merge_method: found {method!r}, expected a name or {{search: [names]}}")


def _groups(spec: Mapping[str, Any], layers: int, where: str) -> list[list[int]] | None:
    """The indices of a gradient that one dimension each fills; None for a single value."""
    for key in spec:
        if key not in HOLE_KEYS:
            raise UserError(f"{where}: unknown key {key!r}{nearest(str(key), HOLE_KEYS)}")
    if "curve" in spec and "layers" in spec:
        raise UserError(f"{where}: found both curve and layers, expected one of them")
    if "curve" in spec:
        return [[index] for index in range(_count(spec["curve"], 2, 1000, f"{where}.curve"))]
    if "layers" in spec:
        each = spec["layers"] == "each"
        count = layers if each else _count(spec["layers"], 1, layers, f"{where}.layers")
        return [list(range(i * layers // count, (i + 1) * layers // count)) for i in range(count)]
    return None


def _count(value: Any, low: int, high: int, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise UserError(f"{where}: found {value!r}, expected a whole number from {low} to {high}")
    return value


def _distribution(spec: Mapping[str, Any], parameters: Sequence[Parameter], where: str) -> BaseDistribution:
    """Two numbers are a range where the parameter is a number; whatever else is a list of choices."""
    values = spec["search"]
    if not isinstance(values, list) or len(values) < 2:
        raise UserError(f"{where}: search: found {values!r}, expected [low, high] or a list of choices")
    for parameter in parameters:
        read = _read(parameter, values, where)
    if len(values) != 2 or parameters[0].kind not in ("number", "integer"):
        return CategoricalDistribution(read)
    low, high = map(float, read)
    if not low < high:
        raise UserError(f"{where}: search: found {values!r}, expected the lower number first")
    if parameters[0].kind == "integer":
        return IntDistribution(int(low), int(high))
    return FloatDistribution(low, high)


def _read(parameter: Parameter, values: Sequence[Any], where: str) -> list[Scalar]:
    try:
        return [parameter.read(value) for value in values]
    except ValueError as error:
        raise UserError(f"{where}: search: {error}") from None


def _middle(distribution: BaseDistribution) -> Scalar:
    match distribution:
        case CategoricalDistribution(choices=choices):
            return choices[0]  # type: ignore[return-value]
        case FloatDistribution(low=low, high=high):
            return (low + high) / 2
        case IntDistribution(low=low, high=high):
            return (low + high) // 2
    raise TypeError(f"unknown distribution {distribution}")


def _put(data: Any, path: Path, value: Any) -> None:
    for key in path[:-1]:
        data = data[key]
    data[path[-1]] = value


def _drop_foreign(data: dict[str, Any], method: Method) -> None:
    for owner in (data, *(entry for entry in data.get("models", ()) if isinstance(entry, dict))):
        if isinstance(owner.get("parameters"), dict):
            owner["parameters"] = {
                name: setting
                for name, setting in owner["parameters"].items()
                if method.parameter(name) or name not in PARAMETER_NAMES
            }
