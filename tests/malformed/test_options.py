"""Options of the command line that are out of range, names of runs, and switches where numbers are expected."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mergesearch.parsing import dump_yaml

from ..search.helpers import Data
from .command import ending
from .mutations import places, with_value

NAMES = ["", ".", "..", "a/b", "../x", "/tmp/x", "x" * 300, "a\0b", "a\nb", " ", "-", "con:", "\udcff", "a\\b"]
OPTIONS = [
    ("--trials", "0"),
    ("--trials", "-1"),
    ("--trials", "1e3"),
    ("--trials", "true"),
    ("--seed", "-1"),
    ("--seed", "1.5"),
    ("--seed", str(10**30)),
    ("--timeout", "x"),
    ("--timeout", "-1"),
    ("--timeout", "0"),
    ("--timeout", "nan"),
    ("--timeout", "inf"),
    ("--timeout", "9" * 400),
    ("--storage", ""),
    ("--storage", "x"),
    ("--storage", "://x"),
    ("--storage", "sqlite://"),
    ("--storage", "a\nb://x"),
    ("--results", "plain/x"),
    ("--results", "x" * 300),
    ("--nonsense",),
    ("--name",),
    ("another argument",),
]


@pytest.fixture
def file(config: Data) -> str:
    del config["search"]["storage"]
    Path("x.yml").write_text(dump_yaml(config))
    Path("plain").write_text("")
    return "x.yml"


@pytest.mark.parametrize("name", NAMES)
def test_names_of_runs(file: str, name: str) -> None:
    for command in ("run", "soup"):
        result = ending(command, file, "--name", name)
        assert result.kind == "refused", (command, result.text)
    assert sorted(path.name for path in Path().iterdir()) == ["plain", "x.yml"]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: " ".join(options)[:30])
def test_options_out_of_range(file: str, options: tuple[str, ...]) -> None:
    result = ending("run", file, *options)
    assert result.kind == "refused", result.text
    assert "Traceback" not in result.text


def numbers(data: Any) -> Iterator[tuple[Any, ...]]:
    """The paths of all numbers."""
    for path in places(data):
        value = data
        for key in path:
            value = value[key]
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield path


@pytest.mark.parametrize(("kind", "command"), [("recipe", ("merge", "x.yml", "out")), ("config", ("check", "x.yml"))])
def test_switches_are_no_numbers(kind: str, command: tuple[str, ...], request: pytest.FixtureRequest) -> None:
    """In lists, filters, curves, holes and sections, too."""
    data = request.getfixturevalue(kind)
    changes: list[Callable[[Data], Data]] = [
        lambda data, path=path, switch=switch: with_value(data, path, switch)  # type: ignore[misc]
        for path in numbers(data)
        for switch in (True, False)
    ]
    assert len(changes) > 10
    for change in changes:
        Path("x.yml").write_text(dump_yaml(change(copy.deepcopy(data))))
        result = ending(*command)
        assert result.kind == "refused", (dump_yaml(change(data)), result.text)
