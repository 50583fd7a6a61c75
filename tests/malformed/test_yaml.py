"""YAML that is no config and no recipe: every command refuses it in one line, at once."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mergesearch.errors import UserError
from mergesearch.parsing import dump_yaml, read_yaml, read_yaml_documents
from mergesearch.say import silent
from mergesearch.text import quoted

from .command import ending
from .values import TEXTS, VALUES, bomb


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("command", [("merge", "in.yml", "out"), ("check", "in.yml"), ("eval", "model", "in.yml")])
def test_texts(command: tuple[str, ...], name: str) -> None:
    Path("in.yml").write_bytes(TEXTS[name])
    result = ending(*command)
    assert result.kind == "refused", result.text
    assert all(line.startswith("error: in.yml: ") and len(line) <= 620 for line in result.errors)
    assert len(result.text.splitlines()) <= 42
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: [*b]", "line 2, column 5: found undefined alias 'b'"),
        ("a: &a\n  b: *a", "line 1, column 4: found a value that contains itself"),
        (bomb(), "line 5, column 5: found more than 30000 values, aliases included"),
        ("a: " + "[" * 60 + "]" * 60, "found more than 50 levels"),
        ("a: 1\nb:\n  c: 2026-13-45", "line 3, column 6: found '2026-13-45', which is no valid timestamp"),
        ("a: 0x_", "line 1, column 4: found '0x_'"),
        ("a: 99999999999999999999", "line 1, column 4: found an integer of 67 bits"),
        ('a: "\\ud800"', "line 1, column 4: found the character U+D800"),
        ('a: "\\0"', "found the character U+0000"),
        ("a: \x07", "line 1: found the character U+0007, which YAML does not allow"),
        ("a: !!python/object/apply:os.system [x]", "line 1, column 4: could not determine a constructor"),
    ],
)
def test_messages_name_the_line(text: str, said: str) -> None:
    Path("x.yml").write_text(text)
    for read in (read_yaml, partial(read_yaml_documents, warn=silent)):
        with pytest.raises(UserError) as caught:
            read(Path("x.yml"))
        assert str(caught.value).startswith("x.yml: is not YAML: ")
        assert said in str(caught.value)


def test_of_equal_keys_the_last_counts_in_recipes_and_configs_refuse_them() -> None:
    Path("x.yml").write_text("a: 1\nb: 2\na: 3\n")
    said: list[str] = []
    assert read_yaml_documents(Path("x.yml"), said.append) == [{"a": 3, "b": 2}]
    found = "x.yml: line 3, column 1: found the key 'a' again, as in line 1"
    assert said == [f"{found}; the last one counts, as in mergekit"]
    with pytest.raises(UserError) as caught:
        read_yaml(Path("x.yml"))
    assert str(caught.value) == found


def test_several_documents_where_one_is_expected() -> None:
    Path("x.yml").write_text("a: 1\n---\nb: 2\n")
    with pytest.raises(UserError, match="found 2 documents, expected one"):
        read_yaml(Path("x.yml"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_marks_and_line_ends_of_other_systems(encoding: str, newline: str) -> None:
    Path("x.yml").write_bytes(f"a: ä{newline}b: 2{newline}".encode(encoding))
    assert read_yaml(Path("x.yml")) == {"a": "ä", "b": 2}


def test_aliases_and_merge_keys_are_read() -> None:
    Path("x.yml").write_text("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}\n")
    assert read_yaml(Path("x.yml")) == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": 2}}


@pytest.mark.parametrize("size", [512 << 10, 1 << 24])
def test_a_file_that_is_too_large_is_not_read(size: int) -> None:
    Path("x.yml").write_bytes(b"#" * size + b"#")
    with pytest.raises(UserError, match=r"x\.yml: has more than 512 KiB"):
        read_yaml(Path("x.yml"))


PATHS = {
    "missing": "there is no such file",
    "folder": "is a folder, expected a file",
    "fifo": "is a pipe, expected a file",
    "/dev/zero": "is a device, expected a file",
    "loop": "cannot be read: Too many levels of symbolic links",
    "broken": "there is no such file",
    "plain/x.yml": "cannot be read: Not a directory",
    "x" * 300: "cannot be read: File name too long",
    "": "is a folder",
    "a\nb": "there is no such file",
}


@pytest.mark.parametrize("path", PATHS)
def test_what_is_no_file(path: str) -> None:
    os.mkfifo("fifo")
    Path("folder").mkdir()
    Path("loop").symlink_to("loop")
    Path("broken").symlink_to("nowhere")
    Path("plain").write_text("")
    for command in (("merge", path, "out"), ("check", path), ("run", path), ("eval", "model", path)):
        result = ending(*command)
        assert result.kind == "refused", result.text
        assert PATHS[path] in result.text
        assert len(result.text.splitlines()) == 1


def test_any_value_is_shown_in_one_short_line() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    for value in (10**5000, [[[[[[[1]]]]]]], ["x" * 10**6] * 1000, float("nan"), "\ud800\x1b", {1: {2: 3}}, cycle):
        text = quoted(value)
        assert len(text) <= 140
        assert text.isprintable()


@pytest.mark.parametrize("name", ["bomb", "cycle", "date that is none", "surrogate", "huge integer", "long text"])
@pytest.mark.parametrize("key", ["dtype", "models", "parameters"])
def test_values_in_a_recipe(recipe: dict[str, Any], key: str, name: str) -> None:
    Path("x.yml").write_text(dump_yaml({**recipe, key: "HERE"}).replace("HERE", VALUES[name]))
    result = ending("merge", "x.yml", "out")
    assert result.kind == "refused", result.text
    assert max(map(len, result.text.splitlines())) <= 520
