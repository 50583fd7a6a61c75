"""A method's numbers for one tensor, from the settings of the group that makes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergesearch.errors import UserError, nearest
from mergesearch.merge_ops.methods import Method, Parameter, Scalar, find_method
from mergesearch.merge_ops.recipe.layout import Entry, Group, Place
from mergesearch.merge_ops.recipe.settings import find, form


@dataclass(frozen=True)
class TensorRecipe:
    """How one tensor is made: its inputs and the method's numbers (``each`` in the order of ``models``).

    ``sources`` and ``base_source`` are what the tensor is called in the models' and the base's checkpoint; ``template``
    is the checkpoint whose tensor of this name it stands in for, where the recipe says what to do on a mismatch. A
    tensor of no models is the base's as it is.
    """

    name: str
    base: str | None
    models: tuple[str, ...]
    shared: Mapping[str, Scalar]
    each: Mapping[str, tuple[Scalar, ...]]
    sources: tuple[str, ...]
    base_source: str | None
    method: str
    template: str | None = None

    @property
    def origin(self) -> tuple[Any, ...]:
        """What the tensor is and is made from, without the numbers: the same for most candidates of a search."""
        return self.name, self.base, self.base_source, self.models, self.sources, self.template

    @property
    def files(self) -> list[str]:
        """The parameters that are paths of files."""
        return [p.name for p in find_method(self.method).parameters if p.kind == "file" and p.name in self.shared]

    @property
    def inputs(self) -> list[tuple[str, str]]:
        """Every checkpoint that the tensor is made from, and its name there; the base first, where there is one."""
        base = [(self.base, self.base_source)] if self.base and self.base_source else []
        return [*base, *self.model_inputs]

    @property
    def claims(self) -> list[tuple[str, str]]:
        """Every checkpoint that has a say in the tensor's shape: the template, and the inputs."""
        template = [(self.template, self.name)] if self.template else []
        return list(dict.fromkeys([*template, *self.inputs]))

    @property
    def model_inputs(self) -> list[tuple[str, str]]:
        """Those beside the base, in the order of ``models``."""
        return list(zip(self.models, self.sources, strict=True))


def base_of(group: Group) -> str | None:
    """The model that task vectors are taken from."""
    return None if group.method.base == "input" else group.base


def inputs_of(group: Group) -> list[Entry]:
    """The entries that the method combines, beside the base where it takes task vectors, without an implied one."""
    base = base_of(group)
    return [entry for entry in group.entries if entry.model != base and not entry.implied]


Numbers = tuple[list[int], Mapping[str, Scalar], Mapping[str, tuple[Scalar, ...]]]
"""Which of a group's entries are merged, the numbers for all of them, and those for each."""


class Resolver:
    """The recipes of one candidate's tensors; numbers that several tensors share are found once."""

    def __init__(self, template: str | None = None) -> None:
        self._template = template
        self._forms: dict[int, set[str]] = {}
        self._known: dict[tuple[Any, ...], Numbers] = {}

    def resolve(self, place: Place) -> TensorRecipe:
        """Raises UserError where a number is missing or invalid."""
        key = self._what_numbers_depend_on(place)
        if key not in self._known:
            self._known[key] = _numbers(place)
        which, shared, each = self._known[key]
        base, entries = base_of(place.group), place.group.entries
        models, sources = tuple(entries[i].model for i in which), tuple(place.sources[i] for i in which)
        base_source = next((source for e, source in zip(entries, place.sources, strict=True) if e.model == base), None)
        own = base if base_source else None
        method = place.group.method.name
        return TensorRecipe(place.name, own, models, shared, each, sources, base_source, method, self._template)

    def _what_numbers_depend_on(self, place: Place) -> tuple[Any, ...]:
        """The group; beside it the depth where there are gradients, and the names where there are filters."""
        group = id(place.group)
        if group not in self._forms:
            self._forms[group] = _forms(place.group)
        if "filters" in self._forms[group]:
            return group, place.depth, place.name, place.sources
        return (group, place.depth) if "gradient" in self._forms[group] else (group,)


def _forms(group: Group) -> set[str]:
    own = (entry.parameters for entry in group.entries)
    return {form(setting) for settings in (*group.settings, *own) for setting in settings.values()}


def _numbers(place: Place) -> Numbers:
    group, base, method = place.group, base_of(place.group), place.group.method
    which = [i for i, e in enumerate(group.entries) if e.model != base and _takes_part(e, place)]
    shared = {
        p.name: _required(find(p, group.settings, place.name, place.depth), p, place)
        for p in method.parameters
        if not p.per_model
    }
    _check_files(method, shared)
    each = {
        p.name: tuple(_own(p, group.entries[i], place.sources[i], place) for i in which)
        for p in method.parameters
        if p.per_model
    }
    return which, shared, each


def _check_files(method: Method, shared: Mapping[str, Scalar]) -> None:
    for name in (p.name for p in method.parameters if p.kind == "file"):
        path = Path(str(shared[name]))
        if not path.is_file():
            around = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
            raise UserError(f"parameters: {name}: there is no file {path}{nearest(path.name, around)}")


def frozen_place(place: Place) -> TensorRecipe:
    """The base's tensor as it is."""
    group = place.group
    named = zip(group.entries, place.sources, strict=True)
    source = next((source for entry, source in named if entry.model == group.base), place.name)
    return TensorRecipe(place.name, group.base, (), {}, {}, (), source, group.method.name)


def _takes_part(entry: Entry, place: Place) -> bool:
    """A base that only the recipe's ``base_model`` names is averaged in where it has numbers, as in mergekit."""
    method = place.group.method
    if not entry.implied:
        return True
    if method.most is not None and len(inputs_of(place.group)) >= method.most:
        return False
    needed = [p for p in method.parameters if p.per_model]
    return all(find(p, place.group.settings, place.name, place.depth) is not None for p in needed)


def _own(parameter: Parameter, entry: Entry, source: str, place: Place) -> Scalar:
    settings = (entry.parameters, *place.group.settings)
    return _required(find(parameter, settings, source, place.depth), parameter, place, f" of {entry.model}")


def _required(value: Scalar | None, parameter: Parameter, place: Place, of: str = "") -> Scalar:
    if value is None:
        raise UserError(f"parameters: {parameter.name!r}{of} is missing for the tensor {place.name}")
    return value
