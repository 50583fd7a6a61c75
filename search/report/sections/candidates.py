"""All candidates of the verdict: baselines, winner, soups and ensemble, as a table and as a figure."""

from collections.abc import Sequence

from mergesearch.search.report.page.elements import Row, number, section, table
from mergesearch.search.report.page.figures import BLUE, GREY, categories, error_bar, figure, rounded, rows_height
from mergesearch.search.study.run_store import RunStore
from mergesearch.search.verdict.result import SIDES, CandidateRow, Verdict
from mergesearch.search.verdict.wording import marked_name, shown_baselines


def candidates(_: RunStore, verdict: Verdict) -> str:
    """The table and the figure."""
    rows = [*shown_baselines(verdict), verdict.winner, *([verdict.ensemble] if verdict.ensemble else [])]
    return section("Candidates", _table(rows, verdict), _figure(rows, verdict))


def _table(rows: Sequence[CandidateRow], verdict: Verdict) -> str:
    objective = "weighted sum, " if verdict.front else ""
    heads = [
        "candidate",
        f"{objective}search",
        f"{objective}test",
        *(f"{task} {metric}" for task, metric in verdict.metrics.items()),
    ]
    cells: list[Row] = [
        [
            marked_name(verdict, row),
            number(row.search),
            number(row.test),
            *(f"{values['test']:.3f}" if "test" in values else "" for values in row.tasks.values()),
        ]
        for row in rows
    ]
    caption = "Objective on the search items and on the test items, with 95 % intervals; tasks on the test items."
    return table(caption, heads, cells, [row is verdict.winner for row in rows])


def _figure(rows: Sequence[CandidateRow], verdict: Verdict) -> str:
    from plotly import graph_objects as go

    drawn, names = go.Figure(), [marked_name(verdict, row) for row in rows]
    for side, colour, shift in zip(SIDES, (GREY, BLUE), (-0.12, 0.12), strict=True):
        estimates = [getattr(row, side) for row in rows]
        drawn.add_scatter(
            x=[rounded(estimate.value) for estimate in estimates],
            y=[at + shift for at in range(len(rows))],
            error_x=error_bar(*estimates),
            mode="markers",
            name=f"{side} items",
            marker={"color": colour, "size": 9, "symbol": "diamond" if side == "search" else "circle"},
            hovertemplate="%{x}",
        )
    drawn.update_layout(xaxis_title="objective", yaxis=categories(names))
    caption = "The candidates' objective on the search items and on the test items, with 95 % intervals."
    return figure(drawn, "candidates-figure", caption, rows_height(names))
