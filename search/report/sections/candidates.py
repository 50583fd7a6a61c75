"""All candidates of the verdict: baselines, winner, soups and ensemble, as a table and as a figure."""

from collections.abc import Mapping, Sequence

from mergesearch.errors import UserError
from mergesearch.search.across.finalists import Finalists
from mergesearch.search.report.page.elements import Cell, Row, details, number, section, small_figures, table
from mergesearch.search.report.page.figures import BLUE, GREY, categories, error_bar, figure, rounded, rows_height
from mergesearch.search.statistics import Estimate
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_store import RunStore
from mergesearch.search.verdict.result import SIDES, CandidateRow, Verdict, shown_name
from mergesearch.search.verdict.wording import marked_name, shown_baselines

Intervals = Mapping[int, Mapping[str, Estimate]]
"""The metrics of candidates on the test items, by trial and task; of those that are known item by item."""


def candidates(store: RunStore, verdict: Verdict) -> str:
    """The table, a figure of the objective and, of several tasks, one of each."""
    rows = [*shown_baselines(verdict), verdict.winner, *([verdict.ensemble] if verdict.ensemble else [])]
    known = _intervals(store, rows)
    return section("Candidates", _table(rows, verdict, known), _figure(rows), _tasks(rows, verdict, known))


def _intervals(store: RunStore, rows: Sequence[CandidateRow]) -> Intervals:
    try:
        found = Finalists.read(store.folder.path)
    except UserError:  # the run was judged by a version that kept no items
        return {}
    seed = store.study.user_attrs.get(t.CONFIG, {}).get("search", {}).get("seed", 0)
    return {row.trial: found.estimates(row.trial, seed) for row in rows if str(row.trial) in found.columns}


def _table(rows: Sequence[CandidateRow], verdict: Verdict, known: Intervals) -> str:
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
            *(_of_task(row, task, known) for task in row.tasks),
        ]
        for row in rows
    ]
    caption = "Objective on the search items and on the test items, and tasks on the test items, with 95 % intervals."
    return table(caption, heads, cells, [row is verdict.winner for row in rows])


def _of_task(row: CandidateRow, task: str, known: Intervals) -> Cell:
    if "test" not in row.tasks[task]:
        return Cell("")
    interval = known.get(row.trial, {}).get(task)
    return number(interval) if interval else Cell(f"{row.tasks[task]['test']:.3f}")


def _tasks(rows: Sequence[CandidateRow], verdict: Verdict, known: Intervals) -> str:
    """A small figure for each task, to be unfolded; empty where there is one task."""
    having = [row for row in rows if row.trial in known]
    tasks = [task for task in verdict.metrics if having and all(task in known[row.trial] for row in having)]
    if len(tasks) < 2:
        return ""
    figures = [_of_one_task(having, task, verdict, known, at) for at, task in enumerate(tasks)]
    return details("Each task by itself", small_figures(figures))


def _of_one_task(rows: Sequence[CandidateRow], task: str, verdict: Verdict, known: Intervals, at: int) -> str:
    from plotly import graph_objects as go

    drawn, names = go.Figure(), [row.name for row in rows]
    estimates = [known[row.trial][task] for row in rows]
    drawn.add_scatter(
        x=[rounded(estimate.value) for estimate in estimates],
        y=list(range(len(rows))),
        error_x=error_bar(*estimates) | {"color": GREY},
        mode="markers",
        marker={"size": 8, "color": [BLUE if row is verdict.winner else GREY for row in rows]},
        hovertemplate="%{x}<extra></extra>",
    )
    drawn.update_layout(yaxis=categories(names))
    return figure(drawn, f"task-{at}", f"{task} {verdict.metrics[task]}, on the test items.", rows_height(names))


def _figure(rows: Sequence[CandidateRow]) -> str:
    from plotly import graph_objects as go

    drawn, names = go.Figure(), [shown_name(row) for row in rows]
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
