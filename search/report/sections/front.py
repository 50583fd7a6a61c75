"""The Pareto front of a run with several objectives: a figure, and a table of its members by objective."""

from collections.abc import Sequence
from typing import Any

from optuna.trial import FrozenTrial

from mergesearch.search.report.page.elements import Cell, note, number, section, table
from mergesearch.search.report.page.figures import BLUE, GREEN, GREY, OCHRE, RED, figure, label, rounded
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_store import RunStore
from mergesearch.search.verdict.front import Front, FrontMember, Standing
from mergesearch.search.verdict.result import Verdict
from mergesearch.search.verdict.wording import front_in_words
from mergesearch.text import as_html, as_line

GROUPS = {
    "candidate": {"color": GREY, "size": 7, "opacity": 0.6},
    "breaks a constraint": {"color": RED, "size": 7, "symbol": "x-thin-open"},
    "baseline, breaks a constraint": {"color": GREY, "size": 8, "symbol": "x"},
    "baseline": {"color": OCHRE, "size": 9, "symbol": "diamond"},
    "front": {"color": BLUE, "size": 10},
}
MARKS = {
    "knee": {"color": OCHRE, "size": 20, "symbol": "circle-open", "line": {"width": 2}},
    "winner by the weights": {"color": GREEN, "size": 17, "symbol": "star"},
}
STYLES: dict[str, dict[str, Any]] = GROUPS | MARKS
"""Marks by what they stand for, from the background to the foreground."""
BETTER = {"minimize": "less is better", "maximize": "more is better"}
LONGEST = 14
"""The most parameters that a hover label shows."""
EXPLAINED = (
    "With 95 % intervals, in each objective's own units. Differences and p hold for all members and "
    "objectives together. "
    "The knee is the member farthest beyond the line (the plane, for more objectives) between the objectives' best "
    "values, each objective counted from its worst to its best on the front."
)


def front(store: RunStore, verdict: Verdict) -> str:
    """The figure and the table; empty where there is one objective."""
    if verdict.front is None:
        return ""
    drawn = front_figure(verdict.front, t.completed(store.study), verdict.winner.trial)
    caption = "All candidates that were scored in full, by their objectives on the search items."
    return section(
        "The Pareto front, on the search items",
        note(front_in_words(verdict)),
        figure(drawn, "front", caption, 520),
        front_table(verdict.front, verdict.winner.trial),
        note(EXPLAINED),
    )


def front_figure(front: Front, trials: Sequence[FrozenTrial], winner: int) -> Any:
    """All complete trials in the objectives' space: a scatter for two objectives, parallel axes for more."""
    from plotly import graph_objects as go

    names = [name for name in front.directions if any(member.standings[name].search for member in front.members)]
    groups = _grouped(front, trials, winner)
    drawn = go.Figure()
    if len(names) == 2:
        _scatter(drawn, groups, front, names)
    else:
        _axes(drawn, groups, front, names)
    return drawn


def _grouped(front: Front, trials: Sequence[FrozenTrial], winner: int) -> dict[str, list[FrozenTrial]]:
    """The trials by what they are; the winner and the knee once more."""
    members = {member.trial for member in front.members}
    groups = {name: [trial for trial in trials if _group(trial, members) == name] for name in GROUPS}
    marked = {"knee": front.knee, "winner by the weights": winner}
    marks = {name: [trial for trial in trials if trial.number == number] for name, number in marked.items()}
    return {name: found for name, found in (groups | marks).items() if found}


def _group(trial: FrozenTrial, members: set[int]) -> str:
    breaks = t.violation(trial) > 0
    if t.kind_of(trial) == t.BASELINE:
        return "baseline, breaks a constraint" if breaks else "baseline"
    if breaks:
        return "breaks a constraint"
    return "front" if trial.number in members else "candidate"


def _scatter(drawn: Any, groups: dict[str, list[FrozenTrial]], front: Front, names: Sequence[str]) -> None:
    _add_line(drawn, front.members, groups)
    for name, trials in groups.items():
        x, y = ([rounded(trial.values[axis]) for trial in trials] for axis in (0, 1))
        drawn.add_scatter(
            x=x,
            y=y,
            mode="markers",
            name=name,
            marker=STYLES[name],
            text=[_hover(trial, name) for trial in trials],
            hovertemplate="%{text}<extra></extra>",
        )
    titles = [f"{as_html(name)} ({BETTER[front.directions[name]]})" for name in names]
    drawn.update_layout(xaxis_title=titles[0], yaxis_title=titles[1])


def _add_line(drawn: Any, members: Sequence[FrontMember], groups: dict[str, list[FrozenTrial]]) -> None:
    """The front itself: a line from member to member, the best in the first objective first."""
    by_number = {trial.number: trial for trials in groups.values() for trial in trials}
    x, y = zip(*(map(rounded, by_number[member.trial].values) for member in members), strict=True)
    line = {"color": BLUE, "width": 1, "dash": "dot"}
    drawn.add_scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False)


def _hover(trial: FrozenTrial, group: str) -> str:
    """The hover label of a trial: its name, and of those in the foreground its values and parameters."""
    if group in ("candidate", "breaks a constraint"):
        return label(t.label_of(trial))
    values = [f"{name}: {value:.4g}" for name, value in trial.user_attrs[t.VALUES].items()]
    numbers = [f"{n} = {v:.4g}" if isinstance(v, float) else f"{n} = {v}" for n, v in trial.params.items()]
    more = [f"and {len(numbers) - LONGEST} more"] if len(numbers) > LONGEST else []
    lines = [*values, *numbers[:LONGEST], *more]
    return "<br>".join([f"<b>{label(t.label_of(trial))}</b>", *(as_html(as_line(line)) for line in lines)])


def _axes(drawn: Any, groups: dict[str, list[FrozenTrial]], front: Front, names: Sequence[str]) -> None:
    """One line per trial, one trace per group: a gap ends each line."""
    every = [trial for trials in groups.values() for trial in trials]
    ends = [(min(column), max(column)) for column in zip(*(trial.values for trial in every), strict=True)]
    less = [front.directions[name] == "minimize" for name in names]
    for name, trials in groups.items():
        style = STYLES[name]
        heights = [
            height
            for trial in trials
            for height in [*map(_height, trial.values, ends, less), None]  # the gap
        ]
        drawn.add_scatter(
            x=[*range(len(names)), None] * len(trials),
            y=heights,
            mode="lines+markers",
            name=name,
            line={"color": style["color"], "width": 3 if name in MARKS else 1.2},
            opacity=style.get("opacity", 1),
            text=[part for trial in trials for part in [label(t.label_of(trial))] * (len(names) + 1)],
            hovertemplate="%{text}<extra></extra>",
        )
    axis = {"tickvals": list(range(len(names))), "ticktext": [label(name) for name in names]}
    drawn.update_layout(xaxis=axis, yaxis_title="from the worst to the best of all candidates")


def _height(value: float, ends: tuple[float, float], less_is_better: bool) -> float:
    low, high = ends
    share = rounded((value - low) / (high - low)) if high > low else 0.5
    return 1 - share if less_is_better else share


def front_table(front: Front, winner: int) -> str:
    """Each member's objectives on the test items, with the difference from the best baseline."""
    tasks = [task for task in front.directions if any(member.standings[task].test for member in front.members)]
    heads = [
        "member",
        "recipe",
        *(f"{task}, {what}" for task in tasks for what in ("search", "test", "− best baseline")),
    ]
    rows = [
        [
            _name(member, winner, front.knee),
            member.recipe,
            *(cell for task in tasks for cell in _cells(member.standings[task])),
            "yes" if member.on_test_front else "no",
        ]
        for member in front.members
    ]
    marked = [member.trial == winner for member in front.members]
    return table("The members of the front.", [*heads, "on the test front"], rows, marked, texts=(1,))


def _name(member: FrontMember, winner: int, knee: int | None) -> str:
    marks = [mark for mark, trial in (("winner", winner), ("knee", knee)) if trial == member.trial]
    return f"{member.name} ({', '.join([member.method, *marks])})"


def _cells(standing: Standing) -> list[Cell]:
    difference = number(standing.difference, "+")
    p = "" if standing.p is None else f"{difference.less}\np = {standing.p:.4f}".strip()
    return [
        number(standing.search),
        number(standing.test),
        Cell(difference.text, p or difference.less, difference.sort),
    ]
