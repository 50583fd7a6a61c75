"""Reads files that others wrote: only true files, no more than is expected, and only UTF-8."""

import json
import re
import stat
from pathlib import Path
from typing import Any

from mergesearch.errors import UserError, first_line

JSON_BYTES = 64 << 20
"""The largest JSON file: twice the largest tokenizer that is known."""
ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
ALREADY_OPEN = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")
"""Paths of what the shell has opened, as in ``merge <(sed ... recipe.yml) out``."""


def check_file(path: Path) -> None:
    """Raises UserError where there is no file, or a folder, a device, or a pipe that nobody may ever write to."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    if not stat.S_ISREG(mode) and not str(path).startswith(ALREADY_OPEN):
        raise UserError(f"{path}: is {_kind(mode)}, expected a file")


def read_bytes(path: Path, most: int = -1) -> bytes:
    """The first bytes of a file, at most so many; all where that is negative. Raises UserError."""
    check_file(path)
    try:
        with path.open("rb") as file:
            return file.read(most)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None


def read_text(path: Path, most: int) -> str:
    """The text of a file of at most so many bytes, without a byte order mark. Raises UserError."""
    data = read_bytes(path, most + 1)
    if len(data) > most:
        raise UserError(f"{path}: has more than {most >> 10} KiB, expected less")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _unreadable(path, error) from None


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises UserError where it cannot be read or is not JSON."""
    text = read_text(path, JSON_BYTES)
    try:
        content = json.loads(text)
        if ESCAPED_SURROGATE.search(text):
            json.dumps(content, ensure_ascii=False).encode()  # half a surrogate pair is no text, and cannot be written
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON: {first_line(error)}") from None
    return content


def read_json_object(path: Path) -> dict[str, Any]:
    """The content of a JSON file that has to be a mapping. Raises UserError where it is none."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: found {_json_kind(content)}, expected a JSON object with keys")
    return content


def _unreadable(path: Path, error: Exception) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path}: there is no such file")
    if isinstance(error, UnicodeDecodeError):
        return UserError(f"{path}: is not UTF-8 text: {error.reason} at byte {error.start}; save it as UTF-8")
    return UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or first_line(error)}")


def _kind(mode: int) -> str:
    kinds = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket"}
    return next((name for test, name in kinds.items() if test(mode)), "a device")


def _json_kind(content: Any) -> str:
    return {list: "a list", str: "text", type(None): "null"}.get(type(content), "a number")
