"""The leaderboard as one HTML page, which sorts and filters by itself, without a network."""

from collections.abc import Iterator
from dataclasses import replace
from math import isfinite

from mergesearch.search.across.leaderboard import Leaderboard, LeaderboardRow, LeaderboardTable
from mergesearch.search.report.leaderboard_page import EXPLAINED, size_in_words, title
from mergesearch.search.report.page.document import document
from mergesearch.search.report.page.elements import Cell, note, number, search_field, section, table
from mergesearch.search.statistics import Estimate

CAPTION = "Ranks, models and their scores; norm.: normalised, from 0, which guessing gives, to 1."


def leaderboard_html(found: Leaderboard) -> str:
    """The whole page."""
    tables = (section(title(each), _table(each)) for each in found.tables)
    body = [
        "<h1>Leaderboard</h1>",
        note(EXPLAINED),
        search_field("Show rows with", "main", "a model, a run, a method, winner"),
        *tables,
        *map(note, found.notes),
    ]
    return document("Leaderboard", "".join(body))


def _table(found: LeaderboardTable) -> str:
    ends = [end for row in found.rows for end in (row.value.low, row.value.value, row.value.high) if isfinite(end)]
    rows = [list(_cells(found, row, min(ends), max(ends))) for row in found.rows]
    marked = ["winner" in row.roles for row in found.rows]
    return table(CAPTION, list(_heads(found)), rows, marked, (2,))


def _heads(found: LeaderboardTable) -> Iterator[str]:
    yield from ("model", "rank", "role, method", "objective")
    for task in found.tasks:
        yield f"{task.name} {task.metric}{'' if task.higher_is_better else ', less is better'}"
    yield from ("parameters", "scored")


def _cells(found: LeaderboardTable, row: LeaderboardRow, low: float, high: float) -> Iterator[Cell | str]:
    others = [*row.names[1:], *(f"in {run}" for run in row.runs)]
    yield Cell(row.name, ", ".join(others))
    yield from (str(row.rank), Cell(", ".join(row.roles), row.method))
    yield replace(number(row.value), html=_range(row.value, low, high))
    for task in found.tasks:
        normalized = f"{row.normalized[task.name]:.3f} norm." if task.name in row.normalized else ""
        yield Cell(f"{row.tasks[task.name]:.3f}", normalized, row.tasks[task.name])
    yield Cell(size_in_words(row.parameters), sort=row.parameters)
    day, _, time = row.scored.partition("T")
    yield Cell(day, time)


def _range(value: Estimate, low: float, high: float) -> str:
    """The interval as a bar between the lowest and the highest end of the table."""
    if value.is_unbounded or high <= low:
        return ""
    begin, end = (100 * (each - low) / (high - low) for each in (max(value.low, low), min(value.high, high)))
    return f"<span class=range aria-hidden=true><i style='left:{begin:.1f}%;width:{end - begin:.1f}%'></i></span>"
