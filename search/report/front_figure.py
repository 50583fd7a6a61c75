"""The Pareto front in the report: a figure, and a table of its members by objective."""

from collections.abc import Sequence
from typing import Any

from optuna.trial import FrozenTrial

from mergesearch.search.study import trials as t
from mergesearch.search.verdict.formatting import interval
from mergesearch.search.verdict.front import Front, FrontMember, Standing
from mergesearch.text import as_html

GROUPS = {
    "front": {"color": "#2563a8", "size": 10},
    "baseline": {"color": "#8a8f98", "size": 9, "symbol": "diamond"},
    "candidate": {"color": "#b8c4d2", "size": 7},
    "baseline, breaks a constraint": {"color": "#8a8f98", "size": 8, "symbol": "x"},
    "breaks a constraint": {"color": "#c2410c", "size": 6, "symbol": "x"},
}
WINNER, KNEE = "#15803d", "#b45309"
MARKS = {"winner by the weights": (WINNER, "star", 17), "knee": (KNEE, "circle-open", 20)}
HOVER = "%{text}<extra></extra>"
LONGEST = 14
"""The most parameters that a hover label shows."""


def front_figure(front: Front, trials: Sequence[FrozenTrial], winner: int) -> Any:
    """All complete trials in the objectives' space: a scatter for two objectives, parallel axes for more."""
    names = [name for name in front.directions if any(m.standings[name].search for m in front.members)]
    return _scatter(front, trials, winner, names) if len(names) == 2 else _axes(front, trials, winner, names)


def _group(trial: FrozenTrial, members: set[int]) -> str:
    breaks = t.violation(trial) > 0
    if t.kind_of(trial) == t.BASELINE:
        return "baseline, breaks a constraint" if breaks else "baseline"
    if breaks:
        return "breaks a constraint"
    return "front" if trial.number in members else "candidate"


def _scatter(front: Front, trials: Sequence[FrozenTrial], winner: int, names: Sequence[str]) -> Any:
    from plotly import graph_objects as go

    figure, members = go.Figure(), {member.trial for member in front.members}
    by_number = {trial.number: trial for trial in trials}
    _add_line(figure, [by_number[member.trial] for member in front.members])
    for name, marker in GROUPS.items():
        _add_dots(figure, name, [trial for trial in trials if _group(trial, members) == name], marker)
    for name, number in (("knee", front.knee), ("winner by the weights", winner)):
        if number is not None:
            colour, symbol, size = MARKS[name]
            marker = {"color": colour, "symbol": symbol, "size": size, "line": {"width": 2, "color": colour}}
            _add_dots(figure, name, [by_number[number]], marker)
    better = {"minimize": "less is better", "maximize": "more is better"}
    titles = [f"{as_html(name)} ({better[front.directions[name]]})" for name in names]
    figure.update_layout(xaxis_title=titles[0], yaxis_title=titles[1])
    return figure


def _add_line(figure: Any, members: Sequence[FrozenTrial]) -> None:
    x, y = zip(*(trial.values for trial in members), strict=True)
    line = {"color": "#2563a8", "width": 1, "dash": "dot"}
    figure.add_scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False)


def _add_dots(figure: Any, name: str, trials: Sequence[FrozenTrial], marker: dict[str, Any]) -> None:
    if not trials:
        return
    x, y = zip(*(trial.values for trial in trials), strict=True)
    text = [_hover(trial) for trial in trials]
    figure.add_scatter(x=x, y=y, mode="markers", name=name, marker=marker, text=text, hovertemplate=HOVER)


def _hover(trial: FrozenTrial) -> str:
    """The hover label of a trial: its values and parameters."""
    values = [f"{name}: {value:.4g}" for name, value in trial.user_attrs[t.VALUES].items()]
    numbers = [f"{n} = {v:.4g}" if isinstance(v, float) else f"{n} = {v}" for n, v in trial.params.items()]
    more = [f"and {len(numbers) - LONGEST} more"] if len(numbers) > LONGEST else []
    lines = [", ".join(values), *numbers[:LONGEST], *more]
    return "<br>".join([f"<b>{as_html(t.label_of(trial))}</b>", *map(as_html, lines)])


def _axes(front: Front, trials: Sequence[FrozenTrial], winner: int, names: Sequence[str]) -> Any:
    """One line per trial. Plotly's parallel coordinates show neither names nor marks."""
    from plotly import graph_objects as go

    figure, members = go.Figure(), {member.trial for member in front.members}
    ends = [(min(column), max(column)) for column in zip(*(trial.values for trial in trials), strict=True)]
    marks = {winner: "winner by the weights"} | ({} if front.knee in (None, winner) else {front.knee: "knee"})
    shown: set[str] = set()
    for trial in sorted(trials, key=lambda trial: (trial.number in marks, trial.number in members)):
        name = marks.get(trial.number, _group(trial, members))
        colour = MARKS[name][0] if name in MARKS else GROUPS[name]["color"]
        heights = [
            _height(value, low, high, front.directions[task] == "minimize")
            for value, (low, high), task in zip(trial.values, ends, names, strict=True)
        ]
        line = {"color": colour, "width": 3 if name in MARKS else 1.2}
        figure.add_scatter(
            x=[as_html(name) for name in names],
            y=heights,
            mode="lines+markers",
            name=name,
            legendgroup=name,
            line=line,
            showlegend=name not in shown,
            text=[_hover(trial)] * len(names),
            hovertemplate=HOVER,
        )
        shown.add(name)
    figure.update_layout(xaxis_type="category", yaxis_title="from the worst to the best of all candidates")
    return figure


def _height(value: float, low: float, high: float, less_is_better: bool) -> float:
    share = (value - low) / (high - low) if high > low else 0.5
    return 1 - share if less_is_better else share


def front_table(front: Front, winner: int) -> str:
    """Each member's objectives on the test items, with the difference from the best baseline."""
    tasks = [task for task in front.directions if any(member.standings[task].test for member in front.members)]
    heads = [
        "",
        "recipe",
        *(head for task in tasks for head in (f"{task}, search", "test", "− best baseline", "p")),
    ]
    head = "".join(f"<th>{as_html(text)}</th>" for text in [*heads, "on the test front"])
    body = "".join(_row(member, tasks, winner, front.knee) for member in front.members)
    note = (
        "<p class=note>With 95 % intervals, in each objective's own units. Differences and p hold for all members and "
        "objectives together. The knee is the member farthest beyond the line (the plane, for more objectives) between "
        "the objectives' best values, each objective counted from its worst to its best on the front.</p>"
    )
    return f"<div class=wide><table><tr>{head}</tr>{body}</table></div>{note}"


def _row(member: FrontMember, tasks: Sequence[str], winner: int, knee: int | None) -> str:
    marks = [mark for mark, number in (("winner", winner), ("knee", knee)) if number == member.trial]
    name = f"{member.name} ({', '.join([member.method, *marks])})" if marks else f"{member.name} ({member.method})"
    cells = [name, member.recipe, *(cell for task in tasks for cell in _cells(member.standings[task]))]
    inner = "".join(f"<td>{as_html(text)}</td>" for text in [*cells, "yes" if member.on_test_front else "no"])
    return f"<tr{' class=winner' if member.trial == winner else ''}>{inner}</tr>"


def _cells(standing: Standing) -> list[str]:
    p = "" if standing.p is None else f"{standing.p:.4f}"
    return [interval(standing.search), interval(standing.test), interval(standing.difference, "+"), p]
