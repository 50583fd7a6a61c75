"""The elements of a page: sections, tables, notes and code, as HTML.

Functions that take ``html`` or ``parts`` take HTML; all others take plain text, and escape it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mergesearch.search.statistics import Estimate
from mergesearch.search.verdict.formatting import interval
from mergesearch.text import SCREEN, as_html

HEAD = 11
"""Characters that a line of a column's head has room for."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table. ``less`` stands below the text, smaller; ``sort`` is by what the reader sorts the column.

    ``html`` is HTML that follows.
    """

    text: str
    less: str = ""
    sort: float | None = None
    html: str = ""


Row = Sequence[Cell | str]


def section(title: str, *parts: str) -> str:
    """A section with its heading; empty where none of its parts has content."""
    if not any(parts):
        return ""
    name = identifier(title)
    return f"<section aria-labelledby={name}><h2 id={name}>{as_html(title)}</h2>{''.join(parts)}</section>"


def identifier(title: str) -> str:
    """A name for the element of that title, by which links find it."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"


def note(text: str, most: int = SCREEN) -> str:
    """A paragraph beside the main thing; empty without text."""
    return f"<p class=note>{as_html(text, most)}</p>" if text else ""


def bullets(lines: Sequence[str]) -> str:
    """A list of lines; empty without lines."""
    return f"<ul>{''.join(f'<li>{as_html(line)}</li>' for line in lines)}</ul>" if lines else ""


def definitions(facts: Mapping[str, str]) -> str:
    """Names and what they stand for; those without text are left out."""
    items = "".join(f"<dt>{as_html(name)}</dt><dd>{as_html(text)}</dd>" for name, text in facts.items() if text)
    return f"<dl>{items}</dl>" if items else ""


def details(summary: str, *parts: str) -> str:
    """What is shown on a click, and in print; empty where none of its parts has content."""
    return f"<details><summary>{as_html(summary)}</summary>{''.join(parts)}</details>" if any(parts) else ""


def small_figures(figures: Sequence[str]) -> str:
    """Figures beside each other, as many as the screen has room for; empty without figures."""
    return f"<div class=small-figures>{''.join(figures)}</div>" if figures else ""


def code(text: str, name: str) -> str:
    """Text to copy, with a button for that; ``name`` says what it is."""
    return f'<pre class=copy tabindex=0 role=region aria-label="{as_html(name)}">{as_html(text, len(text))}</pre>'


def search_field(text: str, part: str, hint: str) -> str:
    """A field whose words filter the table rows, and the elements of the class item, in a part of the page.

    ``part`` is the part's selector, as CSS has it.
    """
    hint, part = as_html(hint), as_html(part)
    return f'<label>{as_html(text)} <input type=search data-filter="{part}" placeholder="{hint}"></label>'


@dataclass(frozen=True)
class Choice:
    """A choice of a filter: its text, and the word of ``data-tags`` that it leaves."""

    text: str
    tag: str


def filters(part: str, choices: Mapping[str, Sequence[Choice]], text: str, hint: str) -> str:
    """Fields that filter the elements of the class item in the element of that name; hidden without JavaScript.

    ``choices`` are those of each menu, by its name; ``text`` and ``hint`` are of the field for words.
    """
    menus = "".join(_menu(name, part, of_menu) for name, of_menu in choices.items() if of_menu)
    return f"<div class=filters hidden>{menus}{search_field(text, f'#{part}', hint)}</div>"


def _menu(name: str, part: str, choices: Sequence[Choice]) -> str:
    options = "".join(f"<option value={each.tag}>{as_html(each.text)}</option>" for each in choices)
    return (
        f'<label>{as_html(name)} <select data-filter="#{part}"><option value="">all</option>{options}</select></label>'
    )


def number(estimate: Estimate | None, sign: str = "", digits: int = 3) -> Cell:
    """A cell with an estimate, and its interval below; empty where there is none."""
    if estimate is None:
        return Cell("")
    value, _, rest = interval(estimate, sign, digits).partition(" ")
    return Cell(value, rest, estimate.value)


def table(
    caption: str,
    heads: Sequence[str],
    rows: Sequence[Row],
    marked: Sequence[bool] = (),
    texts: Sequence[int] = (),
) -> str:
    """A table whose first column names the rows; one that is wider than the screen scrolls in itself.

    A click on a head sorts by its column.

    ``marked`` says which rows are emphasized, ``texts`` which columns hold text, beside the first one.
    """
    columns = {0, *texts}
    head = "".join(_head(text, at in columns) for at, text in enumerate(heads))
    marks = [*marked, *[False] * (len(rows) - len(marked))]
    body = "".join(
        f"<tr{' class=marked' if mark else ''}>{''.join(_cell(cell, at, columns) for at, cell in enumerate(row))}</tr>"
        for row, mark in zip(rows, marks, strict=True)
    )
    return (
        f'<div class=wide tabindex=0 role=region aria-label="{as_html(caption)}">'
        f"<table class=sortable><caption><span>{as_html(caption)}</span></caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _breaking(text: str) -> str:
    """Text that may be broken after an underscore, a slash or a comma, as names have them instead of spaces."""
    return re.sub("([_/,])(?=\\w)", r"\1<wbr>", as_html(text))


def _head(text: str, is_text: bool) -> str:
    """A head of a column, which is wide enough for a few lines of it."""
    kind = " class=text" if is_text else ""
    return f'<th scope=col{kind} style="min-width:{min(len(text), HEAD)}ch">{_breaking(text)}</th>'


def _cell(cell: Cell | str, at: int, texts: set[int]) -> str:
    cell = Cell(cell) if isinstance(cell, str) else cell
    kind = " class=text" if at in texts else ""
    sort = "" if cell.sort is None else f" data-sort={cell.sort!r}"
    less = f" <small>{as_html(cell.less)}</small>" if cell.less else ""
    tag, scope = ("td", "") if at else ("th", " scope=row")
    return f"<{tag}{scope}{kind}{sort}>{_breaking(cell.text)}{less}{cell.html}</{tag}>"
