"""A curve as one HTML page, which needs no network: each task along the path, and tasks against each other."""

from collections.abc import Sequence
from typing import Any

from mergesearch.search.across.curve import OBJECTIVE, Curve, TaskCurve
from mergesearch.search.report.curve_page import EXPLAINED, differences, title
from mergesearch.search.report.page.document import document
from mergesearch.search.report.page.elements import (
    Cell,
    Row,
    code,
    details,
    note,
    number,
    section,
    small_figures,
    table,
)
from mergesearch.search.report.page.figures import BLUE, GREEN, GREY, error_bar, figure, label, rounded
from mergesearch.search.statistics import Estimate
from mergesearch.text import as_html, as_line

LEGEND = "The dotted line is the better end. Green points are proven to be better than both ends."
THIN = "rgba(125, 131, 140, 0.45)"
"""The colour of intervals that cross each other."""
HEIGHT, LARGE = 330, 430
"""Pixels of a figure of one task, and of two tasks against each other."""


def curve_html(found: Curve) -> str:
    """The whole page."""
    alone = [each for each in found.tasks if each.task != OBJECTIVE]
    along = [_along(found, each, n) for n, each in enumerate(found.tasks)]
    body = [
        f"<h1>{as_html(found.name)}</h1>",
        f"<p class=verdict>{'<br>'.join(map(as_html, found.sentences))}</p>",
        section(f"Along {found.dimension}", note(LEGEND), small_figures(along)),
        section("One task against another", *(_against(found, alone[0], each, n) for n, each in enumerate(alone[1:]))),
        *(section(title(each), _table(found, each)) for each in found.tasks),
        note(EXPLAINED),
        *map(note, found.notes),
        _recipes(found),
    ]
    return document(f"{found.name}: curve", "".join(body))


def _along(found: Curve, curve: TaskCurve, place: int) -> str:
    """The metric by the hole's value, with intervals, and the level of the better end."""
    from plotly import graph_objects as go

    drawn, ends = go.Figure(), (curve.values[0].value, curve.values[-1].value)
    x = _numbers(found)
    _add(drawn, curve, x, [estimate.value for estimate in curve.values], error_y=error_bar(*curve.values))
    better = max(ends) if curve.higher_is_better else min(ends)
    drawn.add_hline(y=rounded(better), line={"color": GREY, "width": 1, "dash": "dot"})
    drawn.update_layout(xaxis=_axis(found), xaxis_title=label(found.dimension), yaxis={"zeroline": False})
    return figure(drawn, f"along-{place}", f"{title(curve)}.", HEIGHT)


def _against(found: Curve, one: TaskCurve, two: TaskCurve, place: int) -> str:
    """The path in the plane of two tasks, with the hole's values beside its points."""
    from plotly import graph_objects as go

    drawn = go.Figure()
    x, y = ([rounded(estimate.value) for estimate in curve.values] for curve in (one, two))
    drawn.add_scatter(
        x=x,
        y=y,
        error_x=_thin(one.values),
        error_y=_thin(two.values),
        text=list(map(as_html, found.labels)),
        textposition="top center",
        mode="lines+markers+text",
        line={"color": BLUE, "width": 2},
        marker={"size": 8},
        cliponaxis=False,
        hovertemplate=f"{label(found.dimension)} = %{{text}}<br>%{{x}}, %{{y}}<extra></extra>",
        showlegend=False,
    )
    titles = [label(each.task) + ("" if each.higher_is_better else ", less is better") for each in (one, two)]
    drawn.update_layout(xaxis={"zeroline": False, "title": titles[0]}, yaxis={"zeroline": False, "title": titles[1]})
    names = f"{as_line(two.task, 80)} against {as_line(one.task, 80)}"
    caption = f"{names}, at each {as_line(found.dimension, 80)}; the intervals are those of each value alone."
    return figure(drawn, f"against-{place}", caption, LARGE)


def _thin(estimates: Sequence[Estimate]) -> dict[str, Any]:
    return error_bar(*estimates) | {"thickness": 1, "width": 0, "color": THIN}


def _add(drawn: Any, curve: TaskCurve, x: Sequence[float], y: Sequence[float], **bars: Any) -> None:
    beyond = set(curve.beyond_both_ends)
    drawn.add_scatter(
        x=x,
        y=[rounded(value) for value in y],
        **bars,
        mode="lines+markers",
        line={"color": BLUE, "width": 2},
        marker={"color": [GREEN if place in beyond else BLUE for place in range(len(y))], "size": 9},
        cliponaxis=False,
        hovertemplate="%{x}: %{y}<extra></extra>",
        showlegend=False,
    )


def _numbers(found: Curve) -> list[float]:
    """The points on the horizontal axis; choices are at the whole numbers."""
    return [rounded(float(point)) if found.is_numeric else float(n) for n, point in enumerate(found.points)]


def _axis(found: Curve) -> dict[str, Any]:
    if found.is_numeric:
        return {"zeroline": False, "type": "log" if found.is_log else "linear"}
    return {"zeroline": False, "tickvals": list(range(len(found.points))), "ticktext": list(map(label, found.labels))}


def _table(found: Curve, curve: TaskCurve) -> str:
    heads = [found.dimension, curve.metric, *differences(found, curve)]
    rows = [_row(found, curve, place) for place in range(len(found.points))]
    beyond = set(curve.beyond_both_ends)
    marked = [place in beyond for place in range(len(found.points))]
    return table(f"{title(curve)}, at each {found.dimension}.", heads, rows, marked)


def _row(found: Curve, curve: TaskCurve, place: int) -> Row:
    cells = [number(each[place], "+") for each in differences(found, curve).values()]
    return [Cell(found.labels[place], sort=_numbers(found)[place]), number(curve.values[place]), *cells]


def _recipes(found: Curve) -> str:
    """The recipe of each task's best point, and where the others are."""
    best = {curve.best: curve.task for curve in reversed(found.tasks)}
    parts = [
        details(f"{found.dimension} = {found.labels[place]}, best on {task}", _recipe(found, place))
        for place, task in sorted(best.items())
    ]
    return section("Recipes", note("In the folder: recipes/, in the order of the points."), *parts)


def _recipe(found: Curve, place: int) -> str:
    return code(found.recipes[place], f"recipe at {found.labels[place]}")
