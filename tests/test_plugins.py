"""Objects by name: of a table, of an installed package's entry points, of a module, of a file."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mergesearch import plugins
from mergesearch.errors import UserError

TABLE = {"one": 1, "two": 2}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A distribution with entry points of the group ``things``."""
    info = tmp_path / "others-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: others\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[things]\nthree = others_things:THREE\nfour = others_things:FOUR\n")
    (tmp_path / "others_things.py").write_text("class Box:\n    inside = 'deep'\nTHREE = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield tmp_path
    sys.modules.pop("others_things", None)


@pytest.mark.usefixtures("installed")
def test_every_way_to_name_a_thing(installed: Path) -> None:
    found = [plugins.find(name, TABLE, "things", "thing") for name in ("two", "three", "others_things:Box.inside")]
    assert found == [2, 3, "deep"]
    assert plugins.find(f"{installed}/others_things.py:THREE", TABLE, "things", "thing") == 3


def test_a_file_is_run_once(tmp_path: Path) -> None:
    file = tmp_path / "counted.py"
    file.write_text("thing = object()")
    assert plugins.load(f"{file}:thing") is plugins.load(f"{file}:thing")
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "counted.py"
    other.write_text("thing = object()")
    assert plugins.load(f"{file}:thing") is not plugins.load(f"{other}:thing")


@pytest.mark.usefixtures("installed")
def test_names_of_nothing() -> None:
    with pytest.raises(UserError, match="there is no thing 'thre'; did you mean 'three'"):
        plugins.find("thre", TABLE, "things", "thing")
    with pytest.raises(UserError, match=r"thing 'four', an entry point for others_things:FOUR: AttributeError"):
        plugins.find("four", TABLE, "things", "thing")
    with pytest.raises(UserError, match="found ':x', expected 'module:name'"):
        plugins.find(":x", TABLE, "things", "thing")


def test_a_file_that_fails_is_not_kept(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("thing = 1 / 0")
    for _ in range(2):
        with pytest.raises(UserError, match=r"broken\.py: cannot be imported: ZeroDivisionError: division by zero"):
            plugins.load(f"{file}:thing")
    file.write_text("thing = 7")
    assert plugins.load(f"{file}:thing") == 7
