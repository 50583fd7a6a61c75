"""Data with other values somewhere, and texts with other bytes somewhere."""

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from mergesearch.parsing import dump_yaml

from .fuzzing import Draw
from .values import JSON_TEXTS, JSON_VALUES, TEXTS, VALUES

SMALL = {name: text for name, text in VALUES.items() if len(text) < 10_000}


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every path in the data but the empty one."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def with_value(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of the data with another value at a path."""
    changed = copy.deepcopy(data)
    owner = changed
    for key in path[:-1]:
        owner = owner[key]
    owner[path[-1]] = value
    return changed


def cut(draw: Draw, text: bytes) -> bytes:
    """The text, of which a part may be replaced by other bytes."""
    if draw.draw(st.booleans()):
        return text
    start = draw.draw(st.integers(0, len(text)))
    return text[:start] + draw.draw(st.binary(max_size=8)) + text[draw.draw(st.integers(start, len(text))) :]


def yaml_of(draw: Draw, data: Any) -> bytes:
    """The data as YAML, with another value somewhere, or with other bytes somewhere, or other YAML altogether."""
    if draw.draw(st.integers(0, 9)) == 0:
        return cut(draw, draw.draw(st.sampled_from([text for text in TEXTS.values() if len(text) < 30_000])))
    path = draw.draw(st.sampled_from(list(places(data))))
    text = dump_yaml(with_value(data, path, "HERE")).replace("HERE", draw.draw(st.sampled_from(list(SMALL.values()))))
    return cut(draw, text.encode())


def json_of(draw: Draw, data: Any) -> bytes:
    """The data as JSON, mutated in the same ways."""
    if draw.draw(st.integers(0, 9)) == 0:
        return cut(draw, draw.draw(st.sampled_from([text for text in JSON_TEXTS.values() if len(text) < 30_000])))
    path = draw.draw(st.sampled_from(list(places(data))))
    return cut(
        draw, json.dumps(with_value(data, path, draw.draw(st.sampled_from(list(JSON_VALUES.values()))))).encode()
    )
