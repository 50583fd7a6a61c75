"""How recipes name checkpoints: ``path``, ``path@revision`` of the model hub, and ``path+adapter``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from mergesearch.errors import UserError


@dataclass(frozen=True)
class Reference:
    """A checkpoint's name in its parts: the model, and a LoRA adapter on it (None: there is none)."""

    model: str
    adapter: str | None = None


def split_reference(text: str) -> Reference:
    """Raises UserError for more than one ``+``. A path that is there as it is written is one model."""
    if "+" not in text or Path(text).exists():
        return Reference(text)
    parts = text.split("+")
    if len(parts) > 2 or not all(parts):
        raise UserError(f"{text}: expected MODEL or MODEL+ADAPTER")
    return Reference(parts[0], parts[1])


def split_revision(text: str) -> tuple[str, str | None]:
    """The name and the revision in ``name@revision``."""
    name, _, revision = text.partition("@")
    return name, revision or None


def _as_text(value: Any) -> Any:
    """mergekit's long form ``{model: {path, revision}, lora: {path, revision}}`` as the short one."""
    if not isinstance(value, dict) or not isinstance(value.get("model"), str | dict):
        return value
    parts = [value["model"], *([value["lora"]] if value.get("lora") else [])]
    return "+".join(_part(part) for part in parts)


def _part(part: Any) -> str:
    if not isinstance(part, dict):
        return str(part)
    revision = part.get("revision")
    return f"{part.get('path')}@{revision}" if revision else str(part.get("path"))


ModelName = Annotated[str, BeforeValidator(_as_text)]
