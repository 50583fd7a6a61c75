"""Heat maps as tables: numbers on colours, so that they show without scripts, to screen readers, and on paper."""

from collections.abc import Sequence
from dataclasses import dataclass

from mergesearch.text import as_html, as_line

NAME = 40
"""The most characters of a head."""


@dataclass(frozen=True)
class Heat:
    """A cell: its number, which gives the colour, the text that shows it, and what the pointer shows."""

    value: float
    text: str
    hint: str = ""


HeatRow = tuple[str, Sequence[Heat | str]]
"""A row's name and its cells; text is a cell without a colour."""


def heat_map(caption: str, heads: Sequence[str], rows: Sequence[HeatRow], largest: float) -> str:
    """A table whose cells are blue above 0, orange below, and as the page at 0; both are told apart by everyone.

    Args:
        caption: says what is shown.
        heads: of the columns, the first of which has the rows' names.
        rows: the rows.
        largest: the size of the numbers that have the full colour.
    """
    head = "".join(f'<th scope=col title="{as_html(text)}">{as_html(as_line(text, NAME))}</th>' for text in heads)
    body = "".join(
        f"<tr><th scope=row>{as_html(name)}</th>{''.join(_cell(cell, largest) for cell in cells)}</tr>"
        for name, cells in rows
    )
    return (
        f'<div class=wide tabindex=0 role=region aria-label="{as_html(caption)}">'
        f"<table class=heat><caption>{as_html(caption)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(cell: Heat | str, largest: float) -> str:
    if isinstance(cell, str):
        return f"<td>{as_html(cell)}</td>"
    share = min(1.0, abs(cell.value) / largest)
    hint = f' title="{as_html(cell.hint)}"' if cell.hint else ""
    sign = "minus" if cell.value < 0 else "plus"
    return f"<td class={sign} style=--share:{share:.2f}{hint}>{as_html(cell.text)}</td>"
