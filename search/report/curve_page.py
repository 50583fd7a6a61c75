"""What ``mergesearch curve`` shows in the terminal: a table for each task, and what it says."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from mergesearch.search.across.curve import Curve, TaskCurve
from mergesearch.search.report.screen import CELL
from mergesearch.search.statistics import Estimate
from mergesearch.search.verdict.formatting import interval
from mergesearch.text import as_line

EXPLAINED = (
    "Values on the search items and paired differences to the ends, with 95 % intervals of each point; what is proven "
    "is corrected for the number of points. The test items are not looked at: `mergesearch run` on the same config "
    "judges the best value by them."
)


def print_curve(screen: Console, found: Curve) -> None:
    """The tables, with the points in bold that are proven to be better than both ends."""
    for curve, sentence in zip(found.tasks, found.sentences, strict=True):
        screen.print(title(curve), style="bold")
        table = Table(box=SIMPLE_HEAD, padding=0, show_edge=False, pad_edge=False)
        table.add_column(as_line(found.dimension, CELL).replace(".", ".\n"), overflow="fold")
        to_ends = differences(found, curve)
        for head in (curve.metric, *to_ends):
            table.add_column(as_line(head, CELL), justify="right", no_wrap=True)
        for place, label in enumerate(found.labels):
            cells = (interval(each[place], "+") for each in to_ends.values())
            style = "bold" if place in curve.beyond_both_ends else ""
            table.add_row(label, interval(curve.values[place]), *cells, style=style)
        screen.print(table)
        screen.print(sentence)
        screen.print()
    screen.print(EXPLAINED, style="dim")
    for note in found.notes:
        screen.print(note)


def title(curve: TaskCurve) -> str:
    """The task, its metric's direction, and its items."""
    direction = "" if curve.higher_is_better else ", less is better"
    return f"{as_line(curve.task, CELL)}: {as_line(curve.metric, CELL)} of {curve.items:,} items{direction}"


def differences(found: Curve, curve: TaskCurve) -> dict[str, Sequence[Estimate | None]]:
    """The differences to each end, None for the end itself, by the heads of their columns.

    There are none where the metric has no interval.
    """
    if not curve.minus_first:
        return {}
    first, last = ([each.estimate for each in outcomes] for outcomes in (curve.minus_first, curve.minus_last))
    return {f"vs. {found.labels[0]}": [None, *first[1:]], f"vs. {found.labels[-1]}": [*last[:-1], None]}
