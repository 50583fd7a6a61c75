"""A config with comments, to be written as a file."""

import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mergesearch.errors import UserError, located
from mergesearch.merge_ops.checkpoint.references import ModelReference, parse_reference
from mergesearch.parsing import YamlDumper, parse
from mergesearch.search.config import Config
from mergesearch.search.config.paths import absolute_paths
from mergesearch.search.problem.problem import open_recipe
from mergesearch.search.space.model_choices import named_references

WIDTH = 100
INDENT = "  "


@dataclass(frozen=True)
class Draft:
    """A config's content, with ``notes`` by the key that they stand above, as ``search.trials``; "": at the top."""

    data: Mapping[str, Any]
    notes: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def text(self) -> str:
        """The YAML of the config, with comments."""
        return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        yield from self._comment("")
        for section, content in self.data.items():
            yield from self._comment(section)
            if not isinstance(content, dict):
                yield _dumped({section: content})
                continue
            yield f"{section}:"
            for key, value in content.items():
                yield from self._comment(f"{section}.{key}", INDENT)
                yield textwrap.indent(_dumped({key: value}), INDENT)

    def _comment(self, key: str, indent: str = "") -> Iterator[str]:
        for note in self.notes.get(key, ()):
            yield from textwrap.wrap(
                " ".join(note.split()), WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "
            )

    def check(self, file: Path) -> None:
        """Raises UserError where the config is not valid, or the models that are on this disk do not fit."""
        with located(str(file)):
            data = absolute_paths(self.data, file.parent)
        config = parse(Config, data, str(file))
        if all(Path(_model(name)).exists() for name in named_references(config.recipe)):
            with located(str(file)):
                open_recipe(config.recipe, file.parent)


class _Dumper(YamlDumper):
    """Writes small mappings on one line, as in ``{search: [0.0, 1.5]}``."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - entries that are equal are written out
        return True


def _represent_dict(dumper: yaml.SafeDumper, data: dict[str, Any]) -> yaml.Node:
    values = [part for value in data.values() for part in (value if isinstance(value, list) else [value])]
    is_small = not any(isinstance(value, dict | list) for value in values)
    return dumper.represent_mapping("tag:yaml.org,2002:map", data, flow_style=is_small)


_Dumper.add_representer(dict, _represent_dict)


def _dumped(data: Mapping[str, Any]) -> str:
    (key, value), *_ = data.items()
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=WIDTH).removesuffix("...\n")
    is_block = isinstance(value, dict | list) and not text.startswith(("{", "["))
    return f"{key}:\n{textwrap.indent(text, INDENT)}".rstrip() if is_block else f"{key}: {text}".rstrip()


def _model(reference: str) -> str:
    return parse_reference(reference).model


def as_in(file: Path, reference: str, places: Sequence[Path] = (Path(),)) -> str:
    """A model as a config in ``file`` names it. ``places``: the folders that its path may be relative to, in order."""
    try:
        parsed = parse_reference(reference)
    except UserError:
        return reference
    parts = [path_in(file, part, places) for part in (parsed.model, parsed.adapter) if part]
    return parts[0] if len(parts) == 1 else str(ModelReference(*parts))


def path_in(file: Path, path: str, places: Sequence[Path] = (Path(),)) -> str:
    """A path as a config in ``file`` has it; a name of what is not on this disk stays."""
    if Path(path).expanduser().is_absolute():
        return path
    there = next((place / path for place in places if os.path.lexists(place / path)), None)
    return path if there is None else os.path.relpath(there.absolute(), file.parent.resolve())
