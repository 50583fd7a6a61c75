"""Values of the command line in place of those of a config: ``search.trials=200``."""

from collections.abc import Iterator, Sequence
from typing import Any, get_args

import yaml
from pydantic import BaseModel

from mergesearch.errors import UserError, first_line, nearest
from mergesearch.parsing import parse_yaml
from mergesearch.text import quoted


def with_values(data: dict[str, Any], assignments: Sequence[str], model: type[BaseModel]) -> dict[str, Any]:
    """A config's content with the values of ``KEY=VALUE``, which are YAML.

    A key is a path, such as ``search.trials`` or ``evaluate.tasks[0].weight``. Keys that ``model`` does not have are
    errors (UserError), with the nearest valid name.
    """
    for assignment in assignments:
        key, sign, text = assignment.partition("=")
        parts = key.replace("[", ".").replace("]", "").split(".")
        if not sign or not all(parts):
            raise UserError(f"found {quoted(assignment)}, expected KEY=VALUE, such as search.trials=200")
        _check(key, parts, model)
        data = _set(data, parts, _value(key, text), key)
    return data


def _value(key: str, text: str) -> Any:
    try:
        return parse_yaml(text)
    except yaml.YAMLError as error:
        raise UserError(f"{key}: found {quoted(text)}, which is not YAML: {first_line(error)}") from None


def _check(key: str, parts: Sequence[str], model: type[BaseModel]) -> None:
    """Raises UserError where a part is no key of the model that it belongs to."""
    owner: type[BaseModel] | None = model
    for part in parts:
        if owner is None:
            return
        if part not in owner.model_fields:
            raise UserError(f"there is no key {key!r}{nearest(key, _names(model))}")
        owner = next(_models(owner.model_fields[part].annotation), None)


def _names(model: type[BaseModel]) -> Iterator[str]:
    """Every key, with those of its own."""
    for name, field in model.model_fields.items():
        yield name
        for inner in _models(field.annotation):
            yield from (f"{name}.{each}" for each in _names(inner))


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The section that a key has; none for a list of sections."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif getattr(annotation, "__origin__", None) is not list:
        for argument in get_args(annotation):
            yield from _models(argument)


def _set(data: Any, parts: Sequence[str], value: Any, key: str) -> Any:
    """The data with a value in place; sections that are missing are made."""
    if not parts:
        return value
    first, *rest = parts
    if isinstance(data, list):
        if not first.isdecimal() or int(first) >= len(data):
            raise UserError(f"{key}: found {quoted(first)}, expected a place in a list: 0 to {len(data) - 1}")
        place = int(first)
        return [*data[:place], _set(data[place], rest, value, key), *data[place + 1 :]]
    if data is not None and not isinstance(data, dict):
        raise UserError(f"{key}: {first!r} is wanted of {quoted(data)}, which has no keys")
    inner = data or {}
    return {**inner, first: _set(inner.get(first), rest, value, key)}
