"""Mutated files of every kind: each is read, or refused by UserError, at once. Anything else is a failure."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.checkpoint.tensor_files import TensorFile
from mergesearch.merge_ops.engine.documents import read_recipes
from mergesearch.merge_ops.inputs.stored_tokens import stored_tokens
from mergesearch.parsing import dump_yaml, read_yaml
from mergesearch.search.config import Config
from mergesearch.search.space.space import Space

from .command import outcome
from .fuzzing import MANY, SAMPLE, Draw, at_once, fuzz
from .headers import GOOD, HEADERS, file_of
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


def read_config(file: Path) -> None:
    config = Config.read(file)
    Space(config.recipe, 2, "recipe")


def read_tensors(file: Path) -> None:
    tensors = TensorFile(file)
    for name in tensors.tensors:
        tensors.read(name)


def read_adapter(file: Path) -> None:
    checkpoint = Checkpoint(f"base+{file.parent}")
    for name in list(checkpoint.tensors)[:5]:
        checkpoint.tensor(name)


def read_model(file: Path) -> None:
    checkpoint = Checkpoint(str(file.parent))
    _ = checkpoint.config
    _ = checkpoint.tensors


def read_tokens(file: Path) -> None:
    stored_tokens(Checkpoint(str(file.parent)))


def header_of(draw: Draw, data: Any) -> bytes:
    """A safetensors file whose header or bytes are mutated."""
    if draw.draw(st.booleans()):
        return cut(draw, draw.draw(st.sampled_from([file for file in HEADERS.values() if len(file) < 100_000])))
    return cut(draw, file_of(json_of(draw, data)))


Kind = tuple[Callable[[Draw, Any], bytes], str, Callable[[Path], Any]]
KINDS: dict[str, Kind] = {
    "recipe": (yaml_of, "x.yml", read_recipes),
    "config": (yaml_of, "x.yml", read_config),
    "yaml": (lambda draw, _: draw.draw(st.binary(max_size=200)), "x.yml", read_yaml),
    "safetensors": (header_of, "x.safetensors", read_tensors),
    "adapter": (json_of, "adapter/adapter_config.json", read_adapter),
    "model": (json_of, "base/config.json", read_model),
    "tokens": (json_of, "base/tokenizer.json", read_tokens),
}
"""How an input of each kind is made, the file that it becomes, and what reads it."""


@pytest.fixture
def subject(request: pytest.FixtureRequest, models: Path) -> Any:
    """The valid data of a kind."""
    for name in ("base", "adapter"):
        Path(name).mkdir()
        for file in (models / name).iterdir():
            Path(name, file.name).write_bytes(file.read_bytes())
    kind = request.node.callspec.params["kind"]
    if kind in ("recipe", "config"):
        return request.getfixturevalue(kind)
    file = Path(KINDS[kind][1])
    return json.loads(file.read_text()) if file.suffix == ".json" else GOOD


def check(kind: str, subject: Any, examples: int) -> None:
    make, name, read = KINDS[kind]

    def check_one(draw: Draw) -> None:
        Path(name).write_bytes(make(draw, subject))
        at_once(lambda: read(Path(name)))

    outcome(lambda: read(Path(name)), 60)  # imports what it needs
    fuzz(check_one, examples)


@pytest.mark.parametrize("kind", KINDS)
def test_some(kind: str, subject: Any) -> None:
    check(kind, subject, SAMPLE)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many(kind: str, subject: Any) -> None:
    check(kind, subject, MANY)
