"""A method's numbers for one tensor, from the settings of the group that makes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mergesearch.errors import UserError, nearest
from mergesearch.merge_ops.layout import Entry, Group, Place
from mergesearch.merge_ops.methods import Method, Parameter, Scalar
from mergesearch.merge_ops.settings import find


@dataclass(frozen=True)
class TensorRecipe:
    """How one tensor is made: its inputs and the method's numbers (``each`` in the order of ``models``).

    ``sources`` and ``base_source`` are what the tensor is called in the models' and the base's checkpoint; ``template``
    is the checkpoint whose tensor of this name it stands in for, where the recipe says what to do on a mismatch.
    """

    name: str
    base: str | None
    models: tuple[str, ...]
    shared: Mapping[str, Scalar]
    each: Mapping[str, tuple[Scalar, ...]]
    sources: tuple[str, ...]
    base_source: str | None
    template: str | None = None

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


def base_of(method: Method, group: Group) -> str | None:
    """The model that task vectors are taken from."""
    return None if method.base == "input" else group.base


def inputs_of(method: Method, group: Group) -> list[Entry]:
    """The entries that the method combines, beside the base where it takes task vectors, without an implied one."""
    base = base_of(method, group)
    return [entry for entry in group.entries if entry.model != base and not entry.implied]


def resolve_place(method: Method, place: Place, template: str | None = None) -> TensorRecipe:
    """Raises UserError where a number is missing or invalid."""
    group, base = place.group, base_of(method, place.group)
    named = list(zip(group.entries, place.sources, strict=True))
    inputs = [(entry, source) for entry, source in named if entry.model != base and _takes_part(method, entry, place)]
    shared = {
        p.name: _required(find(p, group.settings, place.name, place.depth), p, place)
        for p in method.parameters
        if not p.per_model
    }
    _check_files(method, shared)
    each = {
        p.name: tuple(_own(p, entry, source, place) for entry, source in inputs)
        for p in method.parameters
        if p.per_model
    }
    base_source = next((source for entry, source in named if entry.model == base), None)
    models, sources = tuple(entry.model for entry, _ in inputs), tuple(source for _, source in inputs)
    return TensorRecipe(place.name, base if base_source else None, models, shared, each, sources, base_source, template)


def _check_files(method: Method, shared: Mapping[str, Scalar]) -> None:
    for name in (p.name for p in method.parameters if p.kind == "file"):
        path = Path(str(shared[name]))
        if not path.is_file():
            around = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
            raise UserError(f"parameters: {name}: there is no file {path}{nearest(path.name, around)}")


def _takes_part(method: Method, entry: Entry, place: Place) -> bool:
    """A base that only the recipe's ``base_model`` names is averaged in where it has numbers, as in mergekit."""
    if not entry.implied:
        return True
    if method.most is not None and len(inputs_of(method, place.group)) >= method.most:
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
