"""Tables as text for other programs: CSV and Markdown."""

import csv
import io
from collections.abc import Mapping, Sequence

from mergesearch.text import as_heading, as_line

Row = Mapping[str, object]
"""A cell by the name of its column."""


def as_csv(rows: Sequence[Row]) -> str:
    """Rows of the same columns as CSV, with a header. A text that a spreadsheet would run gets an apostrophe."""
    written = io.StringIO()
    writer = csv.DictWriter(written, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _csv_cell(value) for key, value in row.items()} for row in rows)
    return written.getvalue()


def _csv_cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    line = as_line(value)
    return f"'{line}" if line.startswith(("=", "+", "-", "@")) else line


def as_markdown(rows: Sequence[Row], left: int = 1) -> str:
    """Rows of the same columns as a Markdown table; all columns but the first ``left`` are aligned right."""
    heads = list(rows[0]) if rows else []
    lines = [[as_heading(head) for head in heads], ["---" if n < left else "---:" for n in range(len(heads))]]
    lines += [[as_heading(_shown(value)) for value in row.values()] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _shown(value: object) -> object:
    return f"{value:.4f}" if isinstance(value, float) else value
