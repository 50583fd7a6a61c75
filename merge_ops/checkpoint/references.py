"""References to checkpoints in recipes: ``path``, ``name@revision`` of the Hugging Face Hub, and ``path+adapter``.

A ``+`` in a path is written ``\\+``. mergekit's long form needs no such sign. ``REFERENCE aligned to OTHER by WHAT`` is
a copy whose entries are in the order that fits another checkpoint best.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from mergesearch.copies import here
from mergesearch.errors import UserError, nearest
from mergesearch.text import quoted

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?")
"""``name`` or ``owner/name``."""
ALIGNED = re.compile(
    r"(?P<model>.+) aligned to (?P<to>.+) by (?P<by>\w+)(?: on (?P<data>.+?))?(?: using (?P<spec>.+))?"
)
PLUS = re.compile(r"(?<!\\)\+")


@dataclass(frozen=True)
class Alignment:
    """How the entries of a checkpoint are put in order.

    Attributes:
        to: the reference of the checkpoint that they are to fit.
        by: by what they are compared: ``weights`` or ``activations``; ``orthogonal``: rotations, too.
        spec: a YAML file of groups, or a function that builds the module; None: the module is that of transformers.
        data: the file that models run on to compare activations.
    """

    to: str
    by: str
    spec: str | None = None
    data: str | None = None

    def __post_init__(self) -> None:
        if problem := wrong_data(self.by, self.data):
            raise UserError(f"align: {problem}")

    def __str__(self) -> str:
        """The end of a reference."""
        parts = [f"aligned to {self.to} by {self.by}"]
        parts += [f"on {self.data}"] if self.data else []
        return " ".join([*parts, *([f"using {self.spec}"] if self.spec else [])])


def wrong_data(by: str, data: str | None) -> str | None:
    """Returns what is wrong with the data of an alignment, or None."""
    if by == "activations" and data is None:
        return "data: is missing: activations need a text, or a .safetensors file with inputs"
    if by == "weights" and data is not None:
        return f"data: found {data!r} with weights, which are compared without data"
    return None


@dataclass(frozen=True)
class ModelReference:
    """The parts of a reference: a model, a LoRA adapter if there is one, and an alignment if there is one."""

    model: str
    adapter: str | None = None
    aligned: Alignment | None = field(default=None, kw_only=True)

    def __str__(self) -> str:
        """The reference as a text. A ``+`` in a path is written ``\\+`` where it could separate the two."""
        if self.aligned:
            return f"{replace(self, aligned=None)} {self.aligned}"
        parts = [self.model, *([self.adapter] if self.adapter is not None else [])]
        plain = "+".join(parts)
        is_plain = plain.count("+") == len(parts) - 1 or (self.adapter is None and Path(here(plain)).exists())
        return plain if is_plain else "+".join(part.replace("+", r"\+") for part in parts)


def parse_reference(text: str, folder: Path = Path()) -> ModelReference:
    """Returns the parts of a reference. A path that exists as it is written is a model without an adapter.

    Paths are relative to ``folder``.

    Raises:
        UserError: the reference has more than one ``+``, or nothing on one side of it, or is aligned twice.
    """
    is_plain = "+" not in text and " aligned to " not in text
    if is_plain or Path(here(str(folder / text))).exists():
        return ModelReference(text)
    if found := ALIGNED.fullmatch(text):
        inner = parse_reference(found["model"], folder)
        if inner.aligned:
            raise UserError(f"{text}: is aligned twice")
        return replace(inner, aligned=Alignment(*found.group("to", "by", "spec", "data")))
    parts = [part.replace(r"\+", "+") for part in PLUS.split(text)]
    if len(parts) > 2 or not all(parts):
        raise UserError(rf"{text}: expected MODEL or MODEL+ADAPTER; a + in a path is written \+")
    return ModelReference(*parts)


def is_spec_file(spec: str) -> bool:
    """Whether the ``spec`` of an alignment is a YAML file, and not a function that builds the module."""
    return spec.endswith((".yml", ".yaml"))


def without_alignment(reference: str) -> str:
    """Returns the reference of the model that an aligned one is a copy of; any other stays."""
    parsed = parse_reference(reference) if ALIGNED.fullmatch(reference) else None
    return str(replace(parsed, aligned=None)) if parsed and parsed.aligned else reference


def split_revision(text: str) -> tuple[str, str | None]:
    """Returns the name and the revision of ``name@revision``."""
    name, _, revision = text.partition("@")
    return name, revision or None


def may_be_on_hub(text: str) -> bool:
    """Whether a reference that is no path may be ``name`` or ``owner/name`` on the hub, with a revision or without."""
    return HUB_NAME.fullmatch(split_revision(text)[0].removesuffix("/")) is not None


def _as_text(value: Any) -> Any:
    """Returns mergekit's long form ``{model: {path, revision}, lora: {path, revision}}`` as a reference."""
    if not isinstance(value, dict) or "model" not in value:
        return value
    _check_keys(value, ("model", "lora", "adapter", "override_architecture"), "")
    adapters = {key: value[key] for key in ("lora", "adapter") if value.get(key) is not None}
    if len(adapters) > 1:
        raise ValueError("lora, adapter: found both, expected one: they are the same")
    return str(ModelReference(_path("model", value["model"]), *(_path(*entry) for entry in adapters.items())))


def _path(key: str, part: Any) -> str:
    """Returns ``path`` or ``path@revision`` of a part of the long form."""
    entry = part if isinstance(part, dict) else {"path": part}
    _check_keys(entry, ("path", "revision"), f"{key}.")
    path, revision = entry.get("path"), entry.get("revision")
    if not isinstance(path, str) or not path:
        raise ValueError(f"{key}: found {quoted(path)}, expected a path or a name")
    return f"{path}@{revision}" if revision else path


def _check_keys(entry: dict[Any, Any], valid: Sequence[str], where: str) -> None:
    for key, value in entry.items():
        if key not in valid and value is not None:
            raise ValueError(f"unknown key {f'{where}{key}'!r}{nearest(str(key), valid)}")


def with_references(recipe: Any) -> Any:
    """Returns a recipe, with holes or without, with a text in place of each long form.

    Raises:
        ValueError: a long form is not valid.
    """
    if isinstance(recipe, list):
        return [with_references(entry) for entry in recipe]
    if not isinstance(recipe, dict):
        return recipe
    nested = {key: with_references(recipe[key]) for key in ("models", "sources", "slices") if key in recipe}
    if isinstance(recipe.get("modules"), dict):
        nested["modules"] = {name: with_references(module) for name, module in recipe["modules"].items()}
    return {**recipe, **nested, **{key: _choice(recipe[key]) for key in ("model", "base_model") if key in recipe}}


def _choice(value: Any) -> Any:
    """Returns ``_as_text`` of a model, or of each in ``{search: [models]}``."""
    if isinstance(value, dict) and isinstance(value.get("search"), list):
        return {**value, "search": [_as_text(entry) for entry in value["search"]]}
    return _as_text(value)


ModelName = Annotated[str, BeforeValidator(_as_text)]
