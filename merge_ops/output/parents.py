"""The models that a result is made of, as other people can know them: names on the Hub, licences, languages.

What is local has no name for others, and its path is not theirs to know. It is called by the last part of its path.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from mergesearch.errors import UserError
from mergesearch.merge_ops.checkpoint.adapters.config import ADAPTER_CONFIG
from mergesearch.merge_ops.checkpoint.references import (
    HUB_NAME,
    Alignment,
    ModelReference,
    parse_reference,
    split_revision,
)
from mergesearch.merge_ops.checkpoint.side_files import CARD
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.parsing import dump_yaml, parse_yaml, parse_yaml_documents
from mergesearch.reading import read_json_object, read_text
from mergesearch.say import silent

CARD_BYTES = 4 << 20
HEADER = re.compile(r"\s*---\s*\n(.*?)\n---\s*(?:\n|$)", re.DOTALL)
"""The metadata at the top of a card."""
IN_CACHE = re.compile(r"models--([\w.-]+?)(?:--([\w.-]+))?/snapshots/(\w+)$")
"""The end of the path of a model in the Hub's cache."""
CLONED = re.compile(r"url\s*=\s*\S*\bhuggingface\.co/([\w.-]+/[\w.-]+?)(?:\.git)?\s*$", re.MULTILINE)
"""The address in the settings of a git clone of a model."""
FOLDERS = re.compile(
    r"(?:models?|outputs?|out|results?|runs?|checkpoints?|ckpts?|data|tmp|workspace)/|.*/checkpoint-\d+$"
)
"""Paths of folders that look like names on the Hub."""
CODE = re.compile(r"(.+\.py)(:\w+)")
"""A function in a file."""


@dataclass(frozen=True)
class Parent:
    """A model or an adapter of a recipe.

    Attributes:
        name: what the recipe calls it for others: its name on the Hub with the revision, or that of its folder.
        hub: its name on the Hub; None for what is local.
        made_of: of what is local, the names on the Hub that its own files say it was made of.
        card: the metadata of its card; empty where it has none.
    """

    name: str
    hub: str | None = None
    made_of: Sequence[str] = ()
    card: Mapping[str, Any] = field(default_factory=dict)

    @property
    def license(self) -> dict[str, str]:
        """``license``, and with ``other`` its name and link; empty where it is not known."""
        given = self.card.get("license")
        name = ", ".join(map(str, given)) if isinstance(given, list) else given
        if not isinstance(name, str) or not name:
            return {}
        more = {key: self.card[key] for key in ("license_name", "license_link") if isinstance(self.card.get(key), str)}
        return {"license": name, **more}

    @property
    def languages(self) -> list[str]:
        """The codes of its languages."""
        given = self.card.get("language")
        return [each for each in (given if isinstance(given, list) else [given]) if isinstance(each, str)]


@dataclass(frozen=True)
class Parents:
    """The models of a recipe, by their references, with those of the recipes that it uses, and the same for others."""

    recipes: Sequence[Recipe]

    @classmethod
    def of(cls, text: str) -> "Parents":
        """Those of the recipes of a file's text, whose unknown keys were warned about when it was merged."""
        return cls([Recipe.read(each, warn=silent) for each in parse_yaml_documents(text)])

    @cached_property
    def parts(self) -> dict[str, Parent]:
        """Models and adapters by the references that they are parts of, the base first; each has another name."""
        made = {recipe.name for recipe in self.recipes}
        references = dict.fromkeys(r for recipe in self.recipes for r in (*recipe.references, *recipe.tokenizers))
        parts = dict.fromkeys(part for reference in references for part in _parts(reference))
        found = {part: _parent(part) for part in parts if part not in made}
        return dict(_with_own_names(found))

    @property
    def hub_names(self) -> list[str]:
        """The names on the Hub of the models, and of what local ones were made of."""
        return list(dict.fromkeys(name for parent in self.parts.values() for name in _names(parent)))

    @property
    def license(self) -> dict[str, str]:
        """The licence of all, where all have the same; ``other`` where they differ; empty where any is not known."""
        given = [parent.license for parent in self.parts.values()]
        if not all(given):
            return {}
        is_one = all(each == given[0] for each in given)
        return given[0] if is_one and given else {"license": "other", "license_name": "licenses-of-the-merged-models"}

    @property
    def languages(self) -> list[str]:
        """The languages of all, each once."""
        return list(dict.fromkeys(code for parent in self.parts.values() for code in parent.languages))

    @cached_property
    def _names(self) -> dict[str, str]:
        """What references, parts of them and the names of recipes are called for others."""
        names = {part: parent.name for part, parent in self.parts.items()}
        inner = {recipe.name: Path(recipe.name).name for recipe in self.recipes if recipe.name}
        names |= {name: short for name, short in inner.items() if name not in names}
        for recipe in self.recipes:
            for reference in (*recipe.references, *recipe.tokenizers):
                parts = [names.get(part, Path(part).name) for part in _parts(reference)]
                aligned = _renamed_alignment(parse_reference(reference).aligned, names)
                names.setdefault(reference, str(ModelReference(*parts, aligned=aligned)))
        return names

    def name(self, reference: str) -> str:
        """What a reference of a recipe is called for others."""
        return self._names.get(reference, Path(reference).name)

    def public(self, text: str, others: Iterable[str] = ()) -> str:
        """A text with names in place of paths: of the models, and of ``others`` that are paths."""
        names = {other: without_path(other) for other in others} | self._names
        for path in sorted(names, key=len, reverse=True):
            if "/" in path:
                text = text.replace(path, names[path])
        return text

    @property
    def recipe_text(self) -> str:
        """The recipes as YAML, with names in place of local paths."""
        dumped = [each.model_dump(exclude_defaults=True, exclude_none=True) for each in self.recipes]
        return "---\n".join(dump_yaml(self._renamed(each)) for each in dumped)

    def _renamed(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {self._renamed(key): self._renamed(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self._renamed(each) for each in value]
        return self._names.get(value) or without_path(value) if isinstance(value, str) else value


def without_path(text: str) -> str:
    """The name of a file, or of a function in a file, where the text is a path; else the text."""
    if code := CODE.fullmatch(text):
        return Path(code[1]).name + code[2]
    is_path = text.startswith(("/", "./", "../", "~")) or ("/" in text and Path(text).exists())
    return Path(text).name if is_path else text


def _renamed_alignment(alignment: Alignment | None, names: Mapping[str, str]) -> Alignment | None:
    if alignment is None:
        return None
    spec, data = (path and without_path(path) for path in (alignment.spec, alignment.data))
    return replace(alignment, to=names.get(alignment.to, Path(alignment.to).name), spec=spec, data=data)


def _parts(reference: str) -> list[str]:
    parsed = parse_reference(reference)
    return [parsed.model, *([parsed.adapter] if parsed.adapter else [])]


def _names(parent: Parent) -> Sequence[str]:
    return [parent.hub] if parent.hub else parent.made_of


def _with_own_names(found: Mapping[str, Parent]) -> Iterator[tuple[str, Parent]]:
    """Yields each with a name that no other one has."""
    used: set[str] = set()
    for part, parent in found.items():
        names = (f"{parent.name}-{n}" if n > 1 else parent.name for n in range(1, len(found) + 1))
        name = next(each for each in names if each not in used)
        used.add(name)
        yield part, Parent(name, parent.hub, parent.made_of, parent.card)


def _parent(part: str) -> Parent:
    path = Path(part).expanduser()
    hub: str | None
    hub, revision = split_revision(part)
    if not path.exists():
        return Parent(part, hub, (), _cached_card(hub, revision)) if HUB_NAME.fullmatch(hub) else Parent(path.name)
    path = path.resolve() if path.is_dir() else path.absolute()
    if cached := IN_CACHE.search(path.as_posix()):
        hub = "/".join(filter(None, cached.group(1, 2)))
        return Parent(f"{hub}@{cached[3]}", hub, (), _card(path / CARD))
    if (hub := _cloned_from(path)) is not None:
        return Parent(hub, hub, (), _card(path / CARD))
    card = _card(path / CARD)
    return Parent(path.name.removesuffix(".safetensors"), None, _made_of(path, card), card)


def _cached_card(hub: str, revision: str | None) -> dict[str, Any]:
    """The metadata of a model's card, which the Hub's cache has beside its weights."""
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(hub, CARD, revision=revision)
    return _card(Path(file)) if isinstance(file, str) else {}


def _card(file: Path) -> dict[str, Any]:
    """The metadata of a card; empty where there is none, or it cannot be read."""
    try:
        header = HEADER.match(read_text(file, CARD_BYTES))
        data = parse_yaml(header[1]) if header else None
    except (UserError, yaml.YAMLError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _cloned_from(path: Path) -> str | None:
    try:
        found = CLONED.search(read_text(path / ".git" / "config", CARD_BYTES))
    except UserError:
        return None
    return found[1] if found else None


def _made_of(path: Path, card: Mapping[str, Any]) -> list[str]:
    """What the files of a local model say it was made of: its card, or else its config."""
    given = card.get("base_model")
    names = given if isinstance(given, list) else [given]
    names = names if given else [_value(path / "config.json", "_name_or_path")]
    names += [_value(path / ADAPTER_CONFIG, "base_model_name_or_path")]
    return list(dict.fromkeys(name for name in names if isinstance(name, str) and is_hub_name(name)))


def is_hub_name(name: str) -> bool:
    """Whether a text in somebody's file is a name on the Hub with its owner, and no path."""
    is_name = "/" in name and HUB_NAME.fullmatch(name) is not None
    return is_name and not FOLDERS.match(name) and not Path(name).exists()


def _value(file: Path, key: str) -> object:
    try:
        return read_json_object(file).get(key)
    except UserError:
        return None
