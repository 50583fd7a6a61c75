"""The course of the search: what each trial was worth, and how many items it took."""

from collections.abc import Sequence
from itertools import accumulate, product
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from mergesearch.search.report.page.elements import bullets, section
from mergesearch.search.report.page.figures import BLUE, GREEN, GREY, OCHRE, PURPLE, RED, TEAL, figure, label, rounded
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_store import RunStore
from mergesearch.search.verdict.result import Verdict

COLOURS = {
    t.BASELINE: GREY,
    t.GRADIENT: PURPLE,
    t.SWEEP: OCHRE,
    t.LEVEL: TEAL,
    t.SAMPLED: BLUE,
    t.CENTRE: RED,
    t.STEP: OCHRE,
    t.SOUP: GREEN,
}
SYMBOLS = {t.BASELINE: "diamond", t.GRADIENT: "triangle-up", t.SWEEP: "square", t.CENTRE: "star", t.SOUP: "pentagon"}
BEST = "#d97706"
HOVER = "trial %{customdata[0]}: %{y}<br>%{customdata[1]} items<br>%{text}<extra></extra>"
HOLLOW = "-open"
"""The end of the names of plotly's symbols that are drawn by their outline."""


def course(store: RunStore, verdict: Verdict) -> str:
    """Objective by trial and by items scored, and where candidates were raced, the items of each trial."""
    trials = [*t.completed(store.study), *t.stopped(store.study)]
    if not trials:
        return ""
    return section(
        "The search",
        _by_trial(store),
        *([_by_items(store, trials), _items(trials)] if verdict.stopped else []),
        bullets(store.study.user_attrs.get(t.SIGNAL, ())),
    )


def objective_by_trial(study: Study) -> Any:
    """A plotly figure of what each trial was worth, and of the best so far; also while the search goes on."""
    trials = [*t.completed(study), *t.stopped(study)]
    return _objective(study, trials, {trial.number: trial.number for trial in trials}, "trial")


def _by_trial(store: RunStore) -> str:
    drawn = objective_by_trial(store.study)
    stopped = "; hollow ones were stopped early, and their value is an estimate" if t.stopped(store.study) else ""
    return figure(drawn, "course-by-trial", f"Objective on the search items, by trial{stopped}.", 420)


def _by_items(store: RunStore, trials: Sequence[FrozenTrial]) -> str:
    finished = t.finished(store.study)
    spent = accumulate(map(t.items_of, finished))
    drawn = _objective(
        store.study, trials, dict(zip((each.number for each in finished), spent, strict=True)), "items scored"
    )
    caption = "The same by the items that had been scored when the trial ended: what the search cost, and what for."
    return figure(drawn, "course-by-items", caption, 420)


def _objective(study: Study, trials: Sequence[FrozenTrial], places: dict[int, int], axis: str) -> Any:
    from plotly import graph_objects as go

    drawn, rivals = go.Figure(), t.contenders(study)
    _add_trials(drawn, trials, [places[trial.number] for trial in trials], [t.score_of(trial) for trial in trials])
    if rivals:
        best = [rounded(t.score_of(trial)) for trial in accumulate(rivals, lambda *two: min(two, key=t.rank))]
        ends = [*(places[trial.number] for trial in rivals), max(places.values())]
        line = {"shape": "hv", "color": BEST, "width": 2}
        drawn.add_scatter(x=ends, y=[*best, best[-1]], mode="lines", name="best so far", line=line, hoverinfo="skip")
    drawn.update_layout(xaxis_title=axis, yaxis_title="objective", xaxis={"zeroline": False}, yaxis={"zeroline": False})
    return drawn


def _items(trials: Sequence[FrozenTrial]) -> str:
    from plotly import graph_objects as go

    drawn = go.Figure()
    _add_trials(drawn, trials, [trial.number for trial in trials], [t.items_of(trial) for trial in trials])
    drawn.update_layout(xaxis_title="trial", yaxis_title="items scored", yaxis={"rangemode": "tozero"})
    caption = "Items scored in each trial: racing stops a candidate once it is behind the best one."
    return figure(drawn, "items-by-trial", caption, 300)


def _add_trials(drawn: Any, trials: Sequence[FrozenTrial], x: Sequence[float], y: Sequence[float]) -> None:
    """A mark for each trial; hollow if it was stopped early."""
    for (kind, colour), stopped in product(COLOURS.items(), (False, True)):
        chosen = [
            at
            for at, trial in enumerate(trials)
            if t.kind_of(trial) == kind and (trial.state == TrialState.PRUNED) is stopped
        ]
        if chosen:
            drawn.add_scatter(
                x=[x[at] for at in chosen],
                y=[rounded(y[at]) for at in chosen],
                customdata=[[trials[at].number, t.items_of(trials[at])] for at in chosen],
                text=[_about(trials[at]) for at in chosen],
                mode="markers",
                cliponaxis=False,
                name=f"{kind}, stopped early" if stopped else kind,
                marker={"color": colour, "size": 9, "symbol": SYMBOLS.get(kind, "circle") + HOLLOW * stopped},
                hovertemplate=HOVER,
            )


def _about(trial: FrozenTrial) -> str:
    """What the hover label says beside the number; nothing for most trials, so that the page is small."""
    same = trial.user_attrs.get(t.SAME_AS)
    names = [label(t.label_of(trial))] if t.kind_of(trial) in t.NAMED else []
    return "<br>".join([*names, *([f"the same model as<br>{label(same)}"] if same else [])])
