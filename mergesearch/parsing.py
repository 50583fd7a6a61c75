"""Reads YAML files into validated objects, and writes YAML."""

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from mergesearch.errors import UserError, nearest


class Strict(BaseModel):
    """The base of every model of a file: immutable, without unknown keys, without infinite numbers or NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _reject_unknown_keys(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        valid = [field.alias or name for name, field in cls.model_fields.items()]
        for key in data:
            if key not in valid:
                raise ValueError(f"unknown key {str(key)!r}{nearest(str(key), valid)}")
        return data


Parsed = TypeVar("Parsed", bound=BaseModel)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file. Raises UserError where it cannot be read or is not YAML."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is not YAML: {error}") from error


def parse_yaml(text: str) -> Any:
    """The content of a YAML text that this project wrote itself."""
    return yaml.safe_load(text)


def parse(model: type[Parsed], data: Any, where: str) -> Parsed:
    """``data`` as a ``model``.

    Raises UserError with one line for each problem: ``where``, the key, what was found and what was expected.
    """
    if not isinstance(data, dict):
        raise UserError(f"{where}: found {_shown(data)}, expected keys: {', '.join(model.model_fields)}")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = [_line(where, problem) for problem in error.errors(include_url=False)]
        raise UserError("\n".join(dict.fromkeys(lines))) from None


def _line(where: str, problem: Any) -> str:
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"])
    prefix = f"{where}: {key.lstrip('.')}" if key else where
    if problem["type"] == "missing":
        return f"{prefix}: is missing"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{prefix}: {message}"
    return f"{prefix}: found {_shown(problem['input'])}, expected: {message}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


class _Dumper(yaml.SafeDumper):
    """Writes lists of plain values on one line."""


def _represent_list(dumper: yaml.SafeDumper, data: list[Any]) -> yaml.Node:
    flow = all(isinstance(value, bool | int | float | str) for value in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flow)


_Dumper.add_representer(list, _represent_list)
_Dumper.add_representer(tuple, _represent_list)  # type: ignore[arg-type]


def dump_yaml(data: Any) -> str:
    """YAML of ``data``, with the keys of mappings in their given order."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
