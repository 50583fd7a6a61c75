"""References to checkpoints in recipes: ``path``, ``name@revision`` of the Hugging Face Hub, and ``path+adapter``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from mergesearch.errors import UserError


@dataclass(frozen=True)
class ModelReference:
    """The parts of a reference: a model, and a LoRA adapter if there is one."""

    model: str
    adapter: str | None = None


def parse_reference(text: str) -> ModelReference:
    """Returns the parts of a reference. A path that exists as it is written is a model without an adapter.

    Raises:
        UserError: the reference has more than one ``+``, or nothing on one side of it.
    """
    if "+" not in text or Path(text).exists():
        return ModelReference(text)
    parts = text.split("+")
    if len(parts) > 2 or not all(parts):
        raise UserError(f"{text}: expected MODEL or MODEL+ADAPTER")
    return ModelReference(parts[0], parts[1])


def split_revision(text: str) -> tuple[str, str | None]:
    """Returns the name and the revision of ``name@revision``."""
    name, _, revision = text.partition("@")
    return name, revision or None


def _as_text(value: Any) -> Any:
    """Returns mergekit's long form ``{model: {path, revision}, lora: {path, revision}}`` as a reference."""
    if not isinstance(value, dict) or not isinstance(value.get("model"), str | dict):
        return value
    parts = [value["model"], *([value["lora"]] if value.get("lora") else [])]
    return "+".join(_path_as_text(part) for part in parts)


def _path_as_text(part: Any) -> str:
    if not isinstance(part, dict):
        return str(part)
    revision = part.get("revision")
    return f"{part.get('path')}@{revision}" if revision else str(part.get("path"))


ModelName = Annotated[str, BeforeValidator(_as_text)]
