"""Where a recipe has holes in its parameters, with a short name for each: on every level where mergekit has them."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from mergesearch.errors import UserError
from mergesearch.search.space.dimension import Path, is_hole

__all__ = [
    "Path",
    "Place",
    "entry_labels",
    "model_labels",
    "places",
    "put",
    "slice_of",
    "slices_in",
    "spelled",
    "value_at",
]


@dataclass(frozen=True)
class Place:
    """Where a hole stands in the recipe, and what is said there.

    ``owner`` is the path of the model's entry whose parameter it is (None: it is for all), and ``inner`` the rest of
    the path behind the parameter's name. ``in_list``: it is one of the values of a gradient.
    """

    path: Path
    spec: Mapping[str, Any]
    parameter: str
    name: str
    owner: Path | None = None
    inner: Path = ()
    in_list: bool = False

    @property
    def where(self) -> str:
        return spelled(self.path)


def spelled(path: Path) -> str:
    """The path as messages name it: ``models[0].parameters.weight``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def value_at(data: Any, path: Path) -> Any:
    for key in path:
        data = data[key]
    return data


def put(data: Any, path: Path, value: Any) -> None:
    value_at(data, path[:-1])[path[-1]] = value


def slice_of(path: Path) -> Path | None:
    """The path of the slice that a path leads into; None where it leads past all slices."""
    return path[: path.index("slices") + 2] if "slices" in path[:-1] else None


def slices_in(recipe: Mapping[str, Any]) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Every slice of the recipe and of its modules."""
    owners: list[tuple[Path, Mapping[str, Any]]] = [((), recipe)]
    owners += [(("modules", name), module) for name, module in _mappings(recipe.get("modules"))]
    for path, owner in owners:
        yield from (((*path, "slices", index), piece) for index, piece in _mappings(owner.get("slices")))


def places(recipe: Mapping[str, Any]) -> list[Place]:
    """Every hole in the parameters of a recipe, named by ``name`` or by its place; a name that is taken gets a number.

    Raises UserError where two holes are given the same name.
    """
    found, taken = list(_all_places(recipe)), Counter[str]()
    given = [str(place.spec["name"]) for place in found if "name" in place.spec]
    for name, count in Counter(given).items():
        if count > 1:
            raise UserError(f"name: {name!r} is given to {count} holes, expected names of their own")
    named = []
    for place in found:
        name = str(place.spec.get("name", place.name))
        taken[name] += 1
        named.append(replace(place, name=name if taken[name] == 1 else f"{name}~{taken[name]}"))
    return named


def _all_places(recipe: Mapping[str, Any]) -> Iterator[Place]:
    yield from _in_parameters(recipe, (), "", None)
    yield from _in_group(recipe, (), "")
    for name, module in _mappings(recipe.get("modules")):
        yield from _in_parameters(module, ("modules", name), f"{name}.", None)
        yield from _in_group(module, ("modules", name), f"{name}.")


def _in_group(owner: Mapping[str, Any], path: Path, prefix: str) -> Iterator[Place]:
    """The holes of what a recipe, or a module of it, is put together from."""
    yield from _in_entries(owner.get("models"), (*path, "models"), prefix)
    for index, piece in _mappings(owner.get("slices")):
        here: Path = (*path, "slices", index)
        yield from _in_parameters(piece, here, f"{prefix}slice{index}.", None)
        yield from _in_entries(piece.get("sources"), (*here, "sources"), f"{prefix}slice{index}.")


def _in_entries(entries: Any, path: Path, prefix: str) -> Iterator[Place]:
    labels = entry_labels([entry for _, entry in _mappings(entries)])
    for (index, entry), label in zip(_mappings(entries), labels, strict=True):
        here: Path = (*path, index)
        yield from _in_parameters(entry, here, f"{prefix}{label}.", here)


def _mappings(value: Any) -> list[tuple[Any, Mapping[str, Any]]]:
    """The mappings in a list or a mapping, by their key; whatever else is there is the recipe's to refuse."""
    if isinstance(value, list):
        return [(index, entry) for index, entry in enumerate(value) if isinstance(entry, dict)]
    return [(k, v) for k, v in value.items() if isinstance(v, dict)] if isinstance(value, dict) else []


def _in_parameters(holder: Mapping[str, Any], path: Path, prefix: str, owner: Path | None) -> Iterator[Place]:
    parameters = holder.get("parameters")
    for name, setting in parameters.items() if isinstance(parameters, dict) else ():
        for inner, spec, suffix in _in_setting(setting):
            in_list = bool(inner) and isinstance(inner[-1], int)
            whole: Path = (*path, "parameters", name, *inner)
            yield Place(whole, spec, str(name), f"{prefix}{name}{suffix}", owner, inner, in_list)


def _in_setting(setting: Any) -> Iterator[tuple[Path, Mapping[str, Any], str]]:
    if is_hole(setting):
        yield (), setting, ""
    elif isinstance(setting, dict):
        yield from _in_value(setting, (), 0)
    elif isinstance(setting, list):
        for index, element in enumerate(setting):
            if isinstance(element, dict):
                yield from _in_value(element, (index,), index)


def _in_value(element: Mapping[str, Any], path: Path, index: int) -> Iterator[tuple[Path, Mapping[str, Any], str]]:
    value = element.get("value")
    if is_hole(element):
        yield path, element, f"[{index}]"
    elif is_hole(value):
        yield (*path, "value"), value, f".{element.get('filter', 'rest')}"  # type: ignore[misc]
    elif isinstance(value, list):
        for place, knot in enumerate(value):
            if is_hole(knot):
                yield (*path, "value", place), knot, f".{element.get('filter', 'rest')}[{place}]"


def entry_labels(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """A short name for each entry of a list of models; its place where the model itself is a choice."""
    names = [entry.get("model") for entry in entries]
    short = model_labels([str(name) for name in dict.fromkeys(n for n in names if not isinstance(n, dict))])
    return [f"models[{i}]" if isinstance(name, dict) else short[str(name)] for i, name in enumerate(names)]


def model_labels(references: Sequence[str]) -> dict[str, str]:
    """A short name for each checkpoint: the last part of its path where that is its alone, else the whole path."""
    names = [PurePath(reference).name.removesuffix(".safetensors") or reference for reference in references]
    return {
        reference: name if names.count(name) == 1 else reference
        for reference, name in zip(references, names, strict=True)
    }
