"""The content of a document or row: its hash, and its plain text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def content_hash(content: Any) -> str:
    """SHA-256 of the content as JSON, in hexadecimal. Objects that are no JSON count as their ``str``."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def content_text(content: object) -> str:
    """All strings and numbers in the content, one a line, without the names of fields."""
    if isinstance(content, Mapping):
        return "\n".join(content_text(content[key]) for key in sorted(content, key=str))
    if isinstance(content, list | tuple):
        return "\n".join(map(content_text, content))
    return str(content)
