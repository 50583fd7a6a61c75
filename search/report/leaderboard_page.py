"""What ``mergesearch leaderboard`` shows: a table of all runs that measured the same, in the terminal or as text."""

import json
from dataclasses import asdict

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from mergesearch.search.across.leaderboard import Leaderboard, LeaderboardRow, LeaderboardTable
from mergesearch.search.report.table_text import as_csv, as_markdown
from mergesearch.search.verdict.formatting import interval
from mergesearch.search.verdict.result import as_json
from mergesearch.text import as_heading, as_line

NARROW = 100
"""Screens with fewer columns show no dates."""
CELL = 60
"""The most characters of a name in a table."""


def print_leaderboard(screen: Console, found: Leaderboard) -> None:
    """A table for all runs that measured the same."""
    for table in found.tables:
        screen.print(title(table), style="bold")
        shown = Table(box=SIMPLE_HEAD, padding=0, show_edge=False, pad_edge=False)
        left_out = ("date",) if screen.width < NARROW else ()
        heads = [head for head in _cells(table, table.rows[0]) if head not in left_out]
        for head in heads:
            is_name, is_whole = head == "model", head in ("#", "objective")
            shown.add_column(
                head.replace(" ", "\n", 1), justify="left" if is_name else "right", overflow="fold", no_wrap=is_whole
            )
        for row in table.rows:
            cells = _cells(table, row)
            shown.add_row(*(cells[head] for head in heads), style="bold" if "winner" in row.roles else "")
        screen.print(shown)
    screen.print(EXPLAINED, style="dim")
    for note in found.notes:
        screen.print(note)


EXPLAINED = (
    "Objective on the test items with its 95 % interval. A rank is one more than the number of rows that are proven to "
    "be better, by a paired test with p < 0.05."
)


def leaderboard_text(found: Leaderboard, form: str) -> str:
    """A leaderboard as ``json``, ``csv`` or ``md``."""
    if form == "json":
        tables = [_table_json(table) for table in found.tables]
        return json.dumps({"tables": tables, "notes": list(found.notes)}, indent=2) + "\n"
    if form == "csv":
        rows = [{"table": table.content[:8], **_fields(row)} for table in found.tables for row in table.rows]
        keys = dict.fromkeys(key for row in rows for key in row)
        return as_csv([{key: row.get(key, "") for key in keys} for row in rows])
    parts = [
        part
        for table in found.tables
        for part in (f"{as_heading(title(table))}\n", as_markdown([_cells(table, row) for row in table.rows], 2))
    ]
    return "\n".join([*parts, f"{EXPLAINED}\n", *(f"* {as_heading(note)}\n" for note in found.notes)])


def title(table: LeaderboardTable) -> str:
    """What a table is of."""
    runs = f"{len(table.runs)} run{'s' * (len(table.runs) > 1)}: {as_line(', '.join(table.runs), 2 * CELL)}"
    return f"{len(table.rows)} models on {table.items:,} test items ({table.content[:8]}), {runs}"


def _cells(table: LeaderboardTable, row: LeaderboardRow) -> dict[str, str]:
    cells = {"#": str(row.rank), "model": as_line(row.name, CELL), "objective": interval(row.value)}
    for task in table.tasks:
        arrow = "" if task.higher_is_better else " ↓"
        cells[f"{as_line(task.name, CELL)} {as_line(task.metric, CELL)}{arrow}"] = f"{row.tasks[task.name]:.3f}"
    return {**cells, "size": size_in_words(row.parameters), "date": row.scored[:10]}


def size_in_words(parameters: int) -> str:
    """``1.24B``, ``512K``."""
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if parameters >= unit:
            return f"{parameters / unit:.3g}{letter}"
    return str(parameters)


def _fields(row: LeaderboardRow) -> dict[str, object]:
    return {
        "rank": row.rank,
        "model": row.name,
        "runs": " ".join(row.runs),
        "roles": " ".join(row.roles),
        "method": row.method,
        "objective": row.value.value,
        "low": row.value.low,
        "high": row.value.high,
        **row.tasks,
        **{f"{task} normalised": value for task, value in row.normalized.items()},
        "parameters": row.parameters,
        "scored": row.scored,
    }


def _table_json(table: LeaderboardTable) -> dict[str, object]:
    return asdict(table, dict_factory=as_json)
