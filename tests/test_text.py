"""Text of other people: nothing in it is interpreted, and everything can be printed and stored."""

import io
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from markdown_it import MarkdownIt

from mergesearch import text
from mergesearch.errors import UserError, in_words
from mergesearch.text import as_code, as_code_block, as_heading, as_html, quoted

NASTY = "[bold]x[/] <img src=x onerror=alert(1)> `tick` %{x} \x1b[31mred\x1b[0m \x07 \ud800 \u202e :bomb: \r\nline"


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise SystemExit(0)

    __repr__ = __str__


class NoStringError(Exception):
    __str__ = cast(Any, lambda self: len(self.args))


@pytest.mark.parametrize("error", [UnspeakableError(), NoStringError()])
def test_what_cannot_be_shown_is_said(error: Exception) -> None:
    assert "cannot be shown" in in_words(error)
    assert type(error).__name__ in in_words(error)


def test_what_cannot_be_represented_is_said() -> None:
    assert "__repr__ raises SystemExit" in quoted(UnspeakableError())
    assert quoted("\x1b[0m") == r"'\x1b[0m'"


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def test_an_error_without_a_message_has_its_place() -> None:
    assert in_words(raised(AssertionError())).startswith(f"AssertionError: in {__file__}, line ")
    assert in_words(MemoryError()) == "MemoryError: without a message"
    assert in_words(KeyError("x")) == "KeyError: 'x'"


def test_groups_show_the_first_of_their_exceptions() -> None:
    group = ExceptionGroup("several", [ValueError("one"), ExceptionGroup("inner", [KeyError("two")])])
    words = in_words(group)
    for part in ("several", "ValueError: one", "inner", "KeyError: 'two'"):
        assert part in words
    deep: Exception = ValueError("deepest")
    for _ in range(2_000):
        deep = ExceptionGroup("g", [deep])
    assert len(in_words(deep)) < text.SCREEN
    many = in_words(ExceptionGroup("many", [ValueError(n) for n in range(9)]))
    assert "and 6 more" in many


def test_a_recursion_error_can_be_said() -> None:
    def deeper() -> None:
        deeper()

    with pytest.raises(RecursionError) as caught:
        deeper()
    assert "maximum recursion depth" in in_words(caught.value)


def test_html_has_no_tags_of_others() -> None:
    assert "<" not in as_html(NASTY)
    assert as_html("a&b</script>") == "a&amp;b&lt;/script&gt;"


@pytest.mark.parametrize("name", [NASTY, "``", "`", "a``b", "", "</script>\n# heading", "x" * 10_000])
def test_markdown_shows_names_as_they_are(name: str) -> None:
    (paragraph, inline, end) = MarkdownIt().parse(f"* a\n\nbefore {as_code(name)} after")[-3:]
    assert (paragraph.type, end.type) == ("paragraph_open", "paragraph_close")
    assert [child.type for child in inline.children or []] == ["text", "code_inline", "text"]
    heading = MarkdownIt().parse(f"# {as_heading(name)}")
    assert [token.type for token in heading] == ["heading_open", "inline", "heading_close"]
    assert {child.type for child in heading[1].children or []} <= {"text", "text_special"}


def test_no_text_ends_a_code_block() -> None:
    blocks = MarkdownIt().parse(as_code_block("a: 1\n```\n# b\n````\n", "yaml") + "\nafter")
    assert [block.type for block in blocks][:1] == ["fence"]
    assert blocks[0].content == "a: 1\n```\n# b\n````\n"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_every_encoding_can_print_everything(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    text.print_anything()
    print("a − b … \ud800 模型")
    sys.stdout.flush()
    printed = streams[0].buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert r"\ud800" in printed
    assert ("−" in printed) is (encoding == "utf-8")


def test_a_user_error_in_words() -> None:
    assert in_words(UserError("x: found 1")) == "UserError: x: found 1"


PRINTING = """
import os, sys
from mergesearch.text import print_anything
{first}
print_anything()
with open("other", "w") as other:
    {libraries}
    print("a", flush=True)
    print("b", file=sys.stderr, flush=True)
    other.write("mine")
"""


@pytest.mark.parametrize(
    ("first", "libraries"),
    [
        ("", "os.write(1, b'out'), os.write(2, b'error')"),
        ("files = [open('before', 'a') for _ in range(3)]  # which have the streams' numbers", "pass"),
    ],
)
def test_closed_streams_print_into_no_other_file(first: str, libraries: str, tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text(PRINTING.format(first=first, libraries=libraries))
    (tmp_path / "before").touch()
    command = f"exec {shlex.quote(sys.executable)} code.py >&- 2>&- <&-"
    assert subprocess.run(["sh", "-c", command], cwd=tmp_path, check=False).returncode == 0
    assert (tmp_path / "other").read_text() == "mine"
    assert not (tmp_path / "before").read_text()
