"""Where a recipe has holes: every place that holds a ``{search: ...}``, with a short name for each."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Place:
    """Where a hole stands in the recipe, and what is said there."""

    path: Path
    spec: Mapping[str, Any]
    parameter: str
    name: str

    def numbered(self, count: int) -> "Place":
        """The place under a name of its own where earlier ones have the same."""
        return self if count == 1 else replace(self, name=f"{self.name}~{count}")

    @property
    def where(self) -> str:
        return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path).lstrip(".")


def places(recipe: Mapping[str, Any]) -> Iterator[Place]:
    """Every hole in the parameters of a recipe; a name that is taken gets a number."""
    taken: Counter[str] = Counter()
    for place in _all_places(recipe):
        taken[place.name] += 1
        yield place.numbered(taken[place.name])


def _all_places(recipe: Mapping[str, Any]) -> Iterator[Place]:
    yield from _in_parameters(recipe.get("parameters"), ("parameters",), "")
    models = recipe.get("models")
    entries = [entry for entry in models if isinstance(entry, dict)] if isinstance(models, list) else []
    labels = model_labels([str(entry.get("model")) for entry in entries])
    for index, entry in enumerate(entries):
        path: Path = ("models", index, "parameters")
        yield from _in_parameters(entry.get("parameters"), path, f"{labels[str(entry.get('model'))]}.")


def _in_parameters(parameters: Any, path: Path, prefix: str) -> Iterator[Place]:
    if not isinstance(parameters, dict):
        return
    for name, setting in parameters.items():
        for inner, spec, suffix in _in_setting(setting):
            yield Place((*path, name, *inner), spec, name, f"{prefix}{name}{suffix}")


def _in_setting(setting: Any) -> Iterator[tuple[Path, Mapping[str, Any], str]]:
    if isinstance(setting, dict) and "search" in setting:
        yield (), setting, ""
    elif isinstance(setting, dict):
        yield from _in_value(setting, (), 0)
    elif isinstance(setting, list):
        for index, element in enumerate(setting):
            if isinstance(element, dict):
                yield from _in_value(element, (index,), index)


def _in_value(element: Mapping[str, Any], path: Path, index: int) -> Iterator[tuple[Path, Mapping[str, Any], str]]:
    value = element.get("value")
    if "search" in element:
        yield path, element, f"[{index}]"
    elif isinstance(value, dict) and "search" in value:
        yield (*path, "value"), value, f".{element.get('filter', 'rest')}"
    elif isinstance(value, list):
        for place, knot in enumerate(value):
            if isinstance(knot, dict):
                yield (*path, "value", place), knot, f".{element.get('filter', 'rest')}[{place}]"


def model_labels(references: Sequence[str]) -> dict[str, str]:
    """A short name for each checkpoint: the last part of its path where that is its alone, else the whole path."""
    names = [PurePath(reference).stem or reference for reference in references]
    return {
        reference: name if names.count(name) == 1 else reference
        for reference, name in zip(references, names, strict=True)
    }
