"""The terminal: what is printed is shown as it is, and tables fit its width. Imports no model library."""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import StringIO
from typing import Any, Literal

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mergesearch.text import as_encoded, shown

WIDTH = 140
"""Columns where output is not a terminal."""
CELL = 80
"""The most characters of a name in a table."""
NAME, TEXT = 24, 40
"""The widths in which the first column, and the others, are folded where there is no room for all."""
PREFORMATTED = '<pre style="white-space: pre; overflow-x: auto; line-height: normal">{code}</pre>'
"""What stands around printed text as HTML."""
FRAME = 3
"""What a column takes beside its text: a space on both sides, and a line."""


class _Screen(Console):
    """A console that shows text as it is: no markup, no emoji codes, no terminal escapes in it."""

    def render_str(self, text: str, **options: Any) -> Text:
        """See ``Console.render_str``; every string that is printed or stands in a table comes through here."""
        return super().render_str(as_encoded(shown(text), self.encoding), **options)

    def on_broken_pipe(self) -> None:
        """See ``Console.on_broken_pipe``: a run goes on if nobody reads what it prints."""
        self.quiet = True
        with suppress(OSError, ValueError):  # it is no file
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


def console(err: bool = False) -> Console:
    """Standard output, or error; wide enough for the tables where it is no terminal, unless the user says how wide."""
    stream = sys.stderr if err else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else WIDTH
    return _Screen(highlight=False, markup=False, emoji=False, width=width, stderr=err)


def printed(show: Callable[[Console], None], width: int = WIDTH) -> tuple[str, str]:
    """What a function prints, as plain text, and as HTML for a notebook, of so many columns."""
    screen = _Screen(
        file=StringIO(), width=width, record=True, highlight=False, markup=False, emoji=False, force_jupyter=False
    )
    show(screen)
    page = screen.export_html(inline_styles=True, code_format=PREFORMATTED, clear=False)
    return screen.export_text(), page


def print_table(  # noqa: PLR0913, PLR0917 - what a table consists of
    screen: Console,
    title: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    styles: Sequence[str] = (),
    numbers: bool = False,
) -> None:
    """A table that shows every name and number, however narrow the terminal is.

    Names are folded, and columns for which there is no room follow in further tables below, each with the names.

    Args:
        screen: where it is printed.
        title: stands above it.
        heads: of the columns, the first of which has names.
        rows: the cells.
        styles: of the rows; a row with another style than the one before is set off.
        numbers: whether the columns after the first are numbers, at the right and on one line.
    """
    widths = [_width([head, *(row[place] for row in rows)]) for place, head in enumerate(heads)]
    if 1 + sum(width + FRAME for width in widths) > screen.width:
        name = min(NAME, screen.width // 3)
        widths = [min(width, name if place == 0 else width if numbers else TEXT) for place, width in enumerate(widths)]
    for part, places in enumerate(_groups(widths, screen.width)):
        table = Table(title=None if part else title, title_justify="left")
        for place in places:
            side: Literal["left", "right"] = "right" if numbers and place else "left"
            table.add_column(heads[place], width=widths[place], justify=side, overflow="fold")
        for number, row in enumerate(rows):
            style = styles[number] if styles else ""
            if number and styles and style != styles[number - 1]:
                table.add_section()
            table.add_row(*(row[place] for place in places), style=style)
        screen.print(table)


def _width(cells: Sequence[str]) -> int:
    """Of the longest line in the cells of a column."""
    return max(cell_len(line) for cell in cells for line in (shown(cell).splitlines() or [""]))


def _groups(widths: Sequence[int], width: int) -> list[list[int]]:
    """The places of the columns of each table; the first column is in all of them."""
    groups, left = [[0]], width - 1 - widths[0] - FRAME
    for place in range(1, len(widths)):
        needed = widths[place] + FRAME
        if needed > left and len(groups[-1]) > 1:
            groups.append([0])
            left = width - 1 - widths[0] - FRAME
        groups[-1].append(place)
        left -= needed
    return groups
