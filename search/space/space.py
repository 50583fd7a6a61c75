"""Search spaces: recipes with holes.

Wherever mergekit's YAML takes a parameter's value there may stand ``{search: [low, high]}``, with ``log``, ``step`` or
``int``; ``{search: [choices]}``; or ``{search: auto}``, the range that the method itself names. ``curve: K`` makes K
values spread evenly over depth of it, joined linearly by mergekit's gradients or, with ``interpolation: monotone``, by
a monotone cubic; ``layers: each`` or ``layers: N`` one value a layer, or a group of layers. ``{same_as: NAME}`` takes
over another hole's values, and ``sums_to: 1`` makes the models' values share a sum. ``merge_method``, ``base_model``
and a ``model`` may be choices, a model may be left out (``include: {search: [true, false]}``), and the models may
change places (``order: {search: permutations}``). In ``slices`` the ends of a ``layer_range`` may be searched for
(``slices``); ``slices: {search: ...}`` is a stack of layers (``stacks``).
"""

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from optuna.distributions import CategoricalDistribution
from optuna.trial import Trial

from mergesearch.errors import UserError
from mergesearch.merge_ops.methods import PARAMETER_NAMES, Method, Scalar, find_method
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.space.dimension import TIE_KEYS, Hole, check_keys, read_values
from mergesearch.search.space.layer_ranges import bounds, corners, own_methods
from mergesearch.search.space.layer_stack import StackSpace, is_stack, stack_space
from mergesearch.search.space.model_choices import absent, arranged, includes, named_references, order_of, references
from mergesearch.search.space.parameters import Draft, Part, Readers, Values, methods_with, values_at
from mergesearch.search.space.paths import Path, Place, places, put, slice_of, spelled, value_at
from mergesearch.search.space.simplex import Simplex, simplexes, spread_shorthand
from mergesearch.search.space.ties import Tie, source_of, value_is_list

METHOD = "merge_method"
HOLES_STAND = (
    "holes are for parameters, merge_method, base_model, model, the include and order of models, and "
    "the ends of a layer_range"
)


class Space:
    """All candidates of a run. ``layers`` is the depth of the models, which ``layers: each`` needs."""

    def __init__(self, recipe: Mapping[str, Any], layers: int, where: str) -> None:
        self._where = where
        self._layers = layers
        self._template: dict[str, Any] = _without_aliases(dict(recipe))
        self.methods = [find_method(name) for name in _method_names(recipe, where)]
        self.stack = self._take_stack()
        self.slice_methods = own_methods(self._template, where)
        self._bounds = bounds(self._template, where)
        self._chosen = list(references(self._template, where))
        self._includes = list(includes(self._template, where))
        self._order = order_of(self._template, self.methods, where)
        spread_shorthand(self._template)
        found = places(self._template)
        self._values = list(self._read_values(found))
        self._ties = list(self._read_ties(found))
        self._check_places(found)
        self._check()

    @property
    def parts(self) -> list[Part]:
        """What the space is made of, in the order in which it is asked, behind the method."""
        order = [self._order] if self._order else []
        stack = [self.stack] if self.stack else []
        return [*self._chosen, *self._includes, *order, *self._bounds, *self._values, *stack]

    @cached_property
    def holes(self) -> list[Hole]:
        """Every dimension."""
        names = tuple(method.name for method in self.methods)
        chosen = isinstance(self._template.get(METHOD), dict)
        method = [Hole(METHOD, CategoricalDistribution(names), ((METHOD,),))] if chosen else []
        return [*method, *(hole for part in self.parts for hole in part.holes)]

    def holes_of(self, method: Method) -> list[Hole]:
        """What is asked for a candidate of this method, beside the method itself."""
        return [hole for part in self._parts_of(method) for hole in part.holes]

    @property
    def is_conditional(self) -> bool:
        """Whether the method's choice decides what else is asked."""
        asked = {tuple(hole.name for hole in self.holes_of(method)) for method in self.methods}
        return len(asked) > 1

    @property
    def is_stack(self) -> bool:
        """Whether it is a stack of layers by indicators, which the sampler ``stack`` is for."""
        return self.stack is not None and self.stack.shape is not None

    @property
    def has_choices(self) -> bool:
        return any(isinstance(hole.distribution, CategoricalDistribution) for hole in self.holes)

    @cached_property
    def models(self) -> list[str]:
        """The checkpoints that are merged; where one is a choice, all that it is among."""
        if self.stack:
            return list(self.stack.models)
        return named_references({key: value for key, value in self._template.items() if key != "base_model"})

    @property
    def base(self) -> str | None:
        """The base; where it is a choice, the first."""
        base = self._template.get("base_model")
        return base["search"][0] if isinstance(base, dict) else base

    @property
    def bases(self) -> list[str]:
        """All that the base may be."""
        base = self._template.get("base_model")
        return list(base["search"]) if isinstance(base, dict) else [base] if base else []

    def ask(self, trial: Trial) -> Recipe:
        """A candidate: the method first, then what it has."""
        values: dict[str, Scalar] = {hole.name: hole.ask(trial) for hole in self.holes if hole.name == METHOD}
        method = find_method(str(values.get(METHOD, self.methods[0].name)))
        values |= {hole.name: hole.ask(trial) for hole in self.holes_of(method)}
        return self.fill(method, values)

    def fill(self, method: Method, values: Mapping[str, Scalar]) -> Recipe:
        """The recipe with these values in its holes; parameters that the method has not are left out."""
        draft = Draft(copy.deepcopy(self._template), method, values)
        draft.data[METHOD] = method.name
        for choice in self._chosen:
            choice.fill(draft)
        draft.absent = absent(draft, self._includes)
        for part in self._parts_of(method):
            part.fill(draft)
        for tie in self._ties:
            if self._readers(tie.place.path).read(tie.place.parameter, method):
                put(draft.data, tie.place.path, copy.deepcopy(value_at(draft.data, tie.source.path)))
        self._drop_foreign(draft.data, (), method)
        arranged(draft, self._order)
        return Recipe.read(draft.data, self._where)

    def start(self, method: Method, usual: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """The point of the space that is nearest to a method's usual settings, or to the middle of the ranges."""
        point: dict[str, Scalar] = {METHOD: method.name} if len(self.methods) > 1 else {}
        for part in self._parts_of(method):
            point |= part.start(usual)
        return point

    def corners(self, method: Method) -> Iterator[dict[str, Scalar]]:
        """Points with the extreme layers, where the ends of layers' ranges are searched for."""
        point = self.start(method, {})
        return ({**point, **corner} for corner in corners(self._bounds))

    def _take_stack(self) -> StackSpace | None:
        """The search for a stack of layers, in whose place each candidate has slices."""
        if not is_stack(self._template):
            return None
        found = stack_space(self._template, self.methods, self._layers, self._where)
        del self._template["slices"]
        return found

    def _parts_of(self, method: Method) -> list[Part]:
        return [part for part in self.parts if part.asked_by(method)]

    def _read_values(self, found: Sequence[Place]) -> Iterator[Values | Simplex]:
        """The parts that fill parameters, in the recipe's order."""
        shared = {part.places[0].path: part for part in self._simplexes(found)}
        for place in found:
            if place.path in shared:
                yield shared[place.path]
            elif "search" in place.spec and "sums_to" not in place.spec:
                yield from values_at(place, self._readers(place.path), self._layers, f"{self._where}: {place.where}")

    def _simplexes(self, found: Sequence[Place]) -> list[Simplex]:
        return simplexes(self._template, found, self._readers, self._layers, self._where)

    def _readers(self, path: Path) -> Readers:
        """Who reads the parameters at this path: a slice with a method of its own reads by that one alone."""
        here = slice_of(path)
        if here in self.slice_methods:
            return Readers((), (self.slice_methods[here],))
        module = path[:2] if path[:1] == ("modules",) else ()
        below = [method for place, method in self.slice_methods.items() if place[: len(module)] == module]
        return Readers(self.methods, () if here else below)

    def _read_ties(self, found: Sequence[Place]) -> Iterator[Tie]:
        by_name = {place.name: place for place in found}
        for place in (place for place in found if "same_as" in place.spec):
            where = f"{self._where}: {place.where}"
            check_keys(place.spec, TIE_KEYS, where)
            source = source_of(place, by_name, where)
            self._tie(place, source, where)
            yield Tie(place, source)

    def _tie(self, place: Place, source: Place, where: str) -> None:
        """Lets the source be asked wherever the tied parameter is needed. Raises UserError where that cannot be."""
        if place.in_list and value_is_list(source):
            raise UserError(f"{where}.same_as: {source.name!r} has values over depth, expected one value there")
        readers = self._readers(place.path)
        known = methods_with(place.parameter, readers.all, where)
        parts = [part for part in self._values if _fills(part, source)]
        parameters = [found for method in known if (found := method.parameter(place.parameter))]
        for part in parts:
            ends = [0, part.total] if isinstance(part, Simplex) else part.holes[0].ends
            read_values(parameters, ends, f"{where}.same_as {source.name}")
            if isinstance(part, Values):
                part.tied.append((place.parameter, readers.narrowed(part.readers.all) if len(parts) > 1 else readers))
        for method in self.methods:
            asked = sum(part.asked_by(method) for part in parts)
            if readers.read(place.parameter, method) and asked != 1:
                raise UserError(f"{where}.same_as: {method.name} does not ask for {source.name!r}")

    def _drop_foreign(self, data: Any, path: Path, method: Method) -> None:
        """Drops the parameters that only other methods have, on every level."""
        items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
        for key, value in items:
            self._drop_foreign(value, (*path, key), method)
        if isinstance(data, dict) and isinstance(data.get("parameters"), dict):
            readers = self._readers((*path, "parameters"))
            data["parameters"] = {
                name: setting
                for name, setting in data["parameters"].items()
                if readers.read(name, method) or name not in PARAMETER_NAMES
            }

    def _check_places(self, found: Sequence[Place]) -> None:
        """Raises UserError for a hole where none can stand."""
        named = [*(part.hole for part in self._chosen), *(part.hole for part in self._bounds)]
        allowed = {place.path for place in found} | {path for hole in named for path in hole.paths}
        for path in _hole_paths(self._template):
            if path not in allowed and path != (METHOD,):
                raise UserError(f"{self._where}: {spelled(path)}: a hole cannot stand here; {HOLES_STAND}")

    def _check(self) -> None:
        """Refuses dimensions of one name, and reads a candidate of each method and of each choice.

        That finds whatever is wrong beside the holes.
        """
        for name, count in Counter(hole.name for hole in self.holes).items():
            if count > 1:
                raise UserError(f"{self._where}: name: {name!r} is given to {count} holes, expected names of their own")
        for method in self.methods:
            point = self.start(method, {})
            self.fill(method, point)
            ordered = [self._order.hole] if self._order and self._order.asked_by(method) else []
            for hole in [*(part.hole for part in self._chosen), *ordered]:
                for choice in hole.ends:
                    self.fill(method, {**point, hole.name: choice})


def _without_aliases(data: Any) -> Any:
    """A copy in which nothing is in two places, as what YAML's ``*name`` repeats is: each has holes of its own."""
    if isinstance(data, dict):
        return {key: _without_aliases(value) for key, value in data.items()}
    return [_without_aliases(value) for value in data] if isinstance(data, list) else data


def _fills(part: Values | Simplex, place: Place) -> bool:
    filled = part.places if isinstance(part, Simplex) else [part.place]
    return any(other.path == place.path for other in filled)


def _method_names(recipe: Mapping[str, Any], where: str) -> list[str]:
    method = recipe.get(METHOD)
    if isinstance(method, str):
        return [method]
    if isinstance(method, dict) and set(method) == {"search"} and isinstance(method["search"], list):
        return list(dict.fromkeys(map(str, method["search"])))
    raise UserError(f"{where}: merge_method: found {method!r}, expected a name or {{search: [names]}}")


def _hole_paths(data: Any, path: Path = ()) -> Iterator[Path]:
    if isinstance(data, dict) and ("search" in data or "same_as" in data):
        yield path
    elif isinstance(data, dict | list):
        items = data.items() if isinstance(data, dict) else enumerate(data)
        for key, value in items:
            yield from _hole_paths(value, (*path, key))
