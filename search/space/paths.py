"""Paths into a recipe, and the holes in its parameters, on every level on which mergekit has parameters."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any, TypeGuard

from mergesearch.errors import UserError, listed
from mergesearch.merge_ops.checkpoint.references import without_alignment

Path = tuple[str | int, ...]
"""Keys and indices from the top of a recipe, such as ``("models", 0, "parameters", "weight")``."""
ENTRIES = ("models", "sources")
"""The keys whose values are lists of models."""
TIE_KEYS = ("same_as",)
"""The keys of a hole that takes over another one's value."""


def format_path(path: Path) -> str:
    """The path as messages show it: ``models[0].parameters.weight``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def get_at(data: Any, path: Path) -> Any:
    """The value at a path."""
    for key in path:
        data = data[key]
    return data


def set_at(data: Any, path: Path, value: Any) -> None:
    """Replaces the value at a path."""
    get_at(data, path[:-1])[path[-1]] = value


def slice_path(path: Path) -> Path | None:
    """The path of the slice that a path leads into; None where it leads into no slice."""
    return path[: path.index("slices") + 2] if "slices" in path[:-1] else None


def entry_path(path: Path) -> Path | None:
    """The path of the model entry that a path leads into; None where it leads into none."""
    at = next((index for index, part in enumerate(path[:-1]) if part in ("models", "sources")), None)
    return None if at is None else path[: at + 2]


def iterate_slices(recipe: Mapping[str, Any]) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Every slice of the recipe and of its modules, with its path."""
    owners: list[tuple[Path, Mapping[str, Any]]] = [((), recipe)]
    owners += [(("modules", name), module) for name, module in _mappings_in(recipe.get("modules"))]
    for path, owner in owners:
        yield from (((*path, "slices", index), entry) for index, entry in _mappings_in(owner.get("slices")))


def is_hole(value: Any) -> TypeGuard[dict[str, Any]]:
    """Whether a value is a hole: ``{search: ...}``, or ``{same_as: ...}``, which takes over another hole's value."""
    return isinstance(value, dict) and ("search" in value or "same_as" in value)


def hole_paths(data: Any, path: Path = ()) -> Iterator[Path]:
    """The paths of all holes, also of those where a hole is not allowed."""
    if is_hole(data):
        yield path
    elif isinstance(data, dict | list):
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from hole_paths(value, (*path, key))


@dataclass(frozen=True)
class Hole:
    """A hole in a parameter of the recipe.

    Attributes:
        path: where the hole is.
        spec: its keys and values, such as ``{"search": [0.0, 1.0], "curve": 3}``.
        parameter: the name of the parameter.
        name: the hole's own name, unique in the recipe.
        owner: the path of the model entry whose parameter it is; None where the parameter is for all models.
        inner: the rest of the path after the parameter's name.
        in_gradient: whether it is one value of a list of values over depth.
    """

    path: Path
    spec: Mapping[str, Any]
    parameter: str
    name: str
    owner: Path | None = None
    inner: Path = ()
    in_gradient: bool = False

    @property
    def where(self) -> str:
        """The path as messages show it."""
        return format_path(self.path)


def find_holes(recipe: Mapping[str, Any], where: str) -> list[Hole]:
    """Every hole in the parameters of a recipe, in the recipe's order.

    A hole is named by its key ``name``, else by its position, such as ``code.weight.mlp``. A position name that is
    taken gets a number: ``code.weight.mlp~2``. Raises UserError where several holes are given the same name.
    """
    holes, counts = list(_holes_of_recipe(recipe)), Counter[str]()
    _check_given_names(holes, where)
    named = []
    for hole in holes:
        name = str(hole.spec.get("name", hole.name))
        counts[name] += 1
        named.append(replace(hole, name=name if counts[name] == 1 else f"{name}~{counts[name]}"))
    return named


def _check_given_names(holes: Sequence[Hole], where: str) -> None:
    by_name: dict[str, list[str]] = {}
    for hole in holes:
        if "name" in hole.spec:
            by_name.setdefault(str(hole.spec["name"]), []).append(hole.where)
    for name, paths in by_name.items():
        if len(paths) > 1:
            raise UserError(f"{where}: name: found {name!r} in {listed(paths)}, expected a unique name for each hole")


def _holes_of_recipe(recipe: Mapping[str, Any]) -> Iterator[Hole]:
    yield from _holes_of_parameters(recipe, (), "", None)
    yield from _holes_of_inputs(recipe, (), "")
    for name, module in _mappings_in(recipe.get("modules")):
        yield from _holes_of_parameters(module, ("modules", name), f"{name}.", None)
        yield from _holes_of_inputs(module, ("modules", name), f"{name}.")


def _holes_of_inputs(owner: Mapping[str, Any], path: Path, prefix: str) -> Iterator[Hole]:
    """The holes in the models and slices of a recipe or of a module."""
    yield from _holes_of_models(owner.get("models"), (*path, "models"), prefix)
    for index, entry in _mappings_in(owner.get("slices")):
        slice_at: Path = (*path, "slices", index)
        yield from _holes_of_parameters(entry, slice_at, f"{prefix}slice{index}.", None)
        yield from _holes_of_models(entry.get("sources"), (*slice_at, "sources"), f"{prefix}slice{index}.")


def _holes_of_models(entries: Any, path: Path, prefix: str) -> Iterator[Hole]:
    labels = entry_labels([entry for _, entry in _mappings_in(entries)])
    for (index, entry), label in zip(_mappings_in(entries), labels, strict=True):
        owner: Path = (*path, index)
        yield from _holes_of_parameters(entry, owner, f"{prefix}{label}.", owner)


def _mappings_in(value: Any) -> list[tuple[Any, Mapping[str, Any]]]:
    """The mappings in a list or a mapping, by key. Anything else is skipped here; reading the recipe refuses it."""
    if isinstance(value, list):
        return [(index, entry) for index, entry in enumerate(value) if isinstance(entry, dict)]
    return [(k, v) for k, v in value.items() if isinstance(v, dict)] if isinstance(value, dict) else []


def _holes_of_parameters(holder: Mapping[str, Any], path: Path, prefix: str, owner: Path | None) -> Iterator[Hole]:
    parameters = holder.get("parameters")
    for name, setting in parameters.items() if isinstance(parameters, dict) else ():
        for inner, spec, suffix in _holes_of_setting(setting):
            in_gradient = bool(inner) and isinstance(inner[-1], int)
            whole: Path = (*path, "parameters", name, *inner)
            yield Hole(whole, spec, str(name), f"{prefix}{name}{suffix}", owner, inner, in_gradient)


def _holes_of_setting(setting: Any) -> Iterator[tuple[Path, Mapping[str, Any], str]]:
    """The path inside of the setting, the hole, and the end of its name."""
    if is_hole(setting):
        yield (), setting, ""
    elif isinstance(setting, dict):
        yield from _holes_of_element(setting, (), 0)
    elif isinstance(setting, list):
        for index, element in enumerate(setting):
            if isinstance(element, dict):
                yield from _holes_of_element(element, (index,), index)


def _holes_of_element(
    element: Mapping[str, Any], path: Path, index: int
) -> Iterator[tuple[Path, Mapping[str, Any], str]]:
    """The holes of one element of a list: a value of a gradient, or ``{filter, value}``."""
    value, suffix = element.get("value"), f".{element.get('filter', 'rest')}"
    if is_hole(element):
        yield path, element, f"[{index}]"
    elif is_hole(value):
        yield (*path, "value"), value, suffix
    elif isinstance(value, list):
        for number, knot in enumerate(value):
            if is_hole(knot):
                yield (*path, "value", number), knot, f"{suffix}[{number}]"


def entry_labels(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """A short name for each entry of a list of models; its index where the model itself is a hole."""
    names = [entry.get("model") for entry in entries]
    short = model_labels([str(name) for name in dict.fromkeys(n for n in names if isinstance(n, str))])
    return [short[name] if isinstance(name, str) else f"models[{i}]" for i, name in enumerate(names)]


def model_labels(references: Sequence[str]) -> dict[str, str]:
    """A short name for each checkpoint: as many of the last parts of its path as make it unique."""
    plain = [without_alignment(reference) for reference in references]
    parts = [PurePath(reference.removesuffix(".safetensors")).parts or (reference,) for reference in plain]
    most = max(map(len, parts), default=0)
    ends = [["/".join(each[-count:]) for each in parts] for count in range(1, most + 1)]
    ends = [[_label(*pair) for pair in zip(names, references, strict=True)] for names in ends]
    return {
        reference: next((names[at] for names in ends if names.count(names[at]) == 1), reference)
        for at, reference in enumerate(references)
    }


def _label(name: str, reference: str) -> str:
    return name if without_alignment(reference) == reference else f"{name} aligned"


def model_owners(recipe: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Path]]:
    """What lists models: the recipe, its modules, and the slices of each."""
    modules = recipe.get("modules")
    named = modules.items() if isinstance(modules, dict) else []
    for owner, path in [(recipe, ()), *((module, ("modules", name)) for name, module in named)]:
        if not isinstance(owner, dict):
            continue
        yield owner, path
        slices = owner.get("slices")
        for index, entry in enumerate(slices if isinstance(slices, list) else []):
            if isinstance(entry, dict):
                yield entry, (*path, "slices", index)


def entry_lists(recipe: Mapping[str, Any]) -> Iterator[tuple[Path, list[tuple[int, dict[str, Any]]], str | None]]:
    """The path of each list of models, its entries by index, and the model that the others are aligned to.

    This is the base, or the first model where there is none; of choices the first one.
    """
    for owner, path in model_owners(recipe):
        for key in ENTRIES:
            entries = [(i, e) for i, e in _mappings_in(owner.get(key)) if isinstance(e, dict)]
            first = entries[0][1].get("model") if entries else None
            names = (_first(value) for value in (owner.get("base_model"), recipe.get("base_model"), first))
            yield (*path, key), entries, next(filter(None, names), None)


def _first(value: Any) -> str | None:
    """A name, or the first of a choice of names."""
    choices = value.get("search") if isinstance(value, dict) else None
    found = choices[0] if isinstance(choices, list) and choices else value
    return found if isinstance(found, str) else None
