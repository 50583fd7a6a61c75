"""Mutated files of every kind: each is read, or refused by UserError, at once. Anything else is a failure."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.checkpoint.tensor_files import TensorFile
from mergesearch.merge_ops.engine.documents import read_recipes
from mergesearch.merge_ops.inputs.stored_tokens import stored_tokens
from mergesearch.parsing import read_yaml
from mergesearch.search.config import Config
from mergesearch.search.space.space import Space

from .command import outcome
from .fuzzing import MANY, SAMPLE, Draw, at_once, fuzz
from .headers import GOOD, HEADERS, file_of
from .mutations import cut, json_of, yaml_of


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
