"""HTML by which notebooks show objects: text and tables alone, in the notebook's own style. All text is escaped."""

from collections.abc import Sequence

from mergesearch.text import as_html


def paragraph(text: str, strong: bool = False) -> str:
    """A paragraph; empty without text."""
    shown = as_html(text)
    return f"<p>{f'<b>{shown}</b>' if strong else shown}</p>" if text else ""


def bullets(lines: Sequence[str]) -> str:
    """A list of lines; empty without lines."""
    return f"<ul>{''.join(f'<li>{as_html(line)}</li>' for line in lines)}</ul>" if lines else ""


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], marked: Sequence[bool] = ()) -> str:
    """A table whose first column names the rows; those that are ``marked`` are bold."""
    marks = [*marked, *[False] * (len(rows) - len(marked))]
    head = "".join(f"<th>{as_html(text)}</th>" for text in heads)
    body = "".join(_row(row, mark) for row, mark in zip(rows, marks, strict=True))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _row(cells: Sequence[str], marked: bool) -> str:
    style = ' style="font-weight: bold"' if marked else ""
    return f"<tr{style}>{''.join(f'<td>{as_html(cell)}</td>' for cell in cells)}</tr>"
