"""The merge methods of a recipe, and which of them read the parameters at a path."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mergesearch.errors import UserError, listed, located, nearest
from mergesearch.merge_ops.methods import Method, find_method
from mergesearch.merge_ops.recipe.recipe import check_parameters
from mergesearch.search.space.dimension import METHOD
from mergesearch.search.space.paths import Path, format_path, iterate_slices, slice_path
from mergesearch.text import quoted


@dataclass(frozen=True)
class Readers:
    """The methods that read the parameters at one path.

    Attributes:
        searched: those that the search chooses among, or the recipe's only one. A candidate has one of them.
        fixed: slices' own methods. Every candidate has all of them.
    """

    searched: Sequence[Method]
    fixed: Sequence[Method] = ()

    @property
    def all(self) -> list[Method]:
        return [*self.searched, *self.fixed]

    def read(self, parameter: str, method: Method) -> bool:
        """Whether a candidate of that method reads the parameter."""
        own = [method] if method in self.searched else []
        return any(reader.parameter(parameter) for reader in [*own, *self.fixed])

    def narrowed(self, methods: Sequence[Method]) -> "Readers":
        """Those readers that are among the methods."""
        return Readers(
            *([reader for reader in readers if reader in methods] for readers in (self.searched, self.fixed))
        )


@dataclass(frozen=True)
class RecipeMethods:
    """``searched``: the methods that ``merge_method`` may be; ``of_slices``: slices' own methods, by slice path."""

    searched: list[Method]
    of_slices: Mapping[Path, Method]

    def readers_at(self, path: Path) -> Readers:
        """The readers of the parameters at a path; a slice with a method of its own has that one alone."""
        own = slice_path(path)
        if own is not None and own in self.of_slices:
            return Readers((), (self.of_slices[own],))
        module = path[:2] if path[:1] == ("modules",) else ()
        below = [method for at, method in self.of_slices.items() if at[: len(module)] == module]
        return Readers(self.searched, () if own else below)


def read_searched_methods(recipe: Mapping[str, Any], where: str) -> list[Method]:
    """The methods that ``merge_method: NAME`` or ``merge_method: {search: [NAMES]}`` stands for."""
    value = recipe.get(METHOD)
    if isinstance(value, str):
        return [_find(value, where)]
    if isinstance(value, dict) and set(value) == {"search"} and isinstance(value["search"], list):
        return [_find(name, where) for name in dict.fromkeys(map(str, value["search"]))]
    raise UserError(f"{where}: {METHOD}: found {quoted(value)}, expected a name or {{search: [names]}}")


def read_slice_methods(recipe: Mapping[str, Any], where: str) -> dict[Path, Method]:
    """The methods that slices have of their own, by slice path. Raises UserError where one is a hole."""
    methods = {}
    for path, entry in iterate_slices(recipe):
        name = entry.get(METHOD)
        if isinstance(name, dict):
            raise UserError(
                f"{where}: {format_path((*path, METHOD))}: found a hole, expected a name: the method of a single slice "
                "cannot be searched, that of the whole recipe can"
            )
        if name is not None:
            methods[path] = _find(str(name), f"{where}: {format_path(path)}")
    return methods


def _find(name: str, where: str) -> Method:
    with located(where):
        return find_method(name)


def methods_with(parameter: str, methods: Sequence[Method], where: str) -> list[Method]:
    """Those of the methods that have the parameter. Raises UserError where none has it."""
    having = [method for method in methods if method.parameter(parameter)]
    if not having:
        # The message for a name that no method at all has, with the nearest one.
        check_parameters({parameter: 0}, where.removesuffix(f".{parameter}"), methods)
        names = listed(method.name for method in methods)
        valid = {found.name for method in methods for found in method.parameters}
        verb = "has" if len(methods) == 1 else "have"
        raise UserError(f"{where}: {names} {verb} no parameter {parameter!r}{nearest(parameter, valid)}")
    return having
