"""The best candidates of the search in parallel coordinates: one line each, from dimension to dimension."""

from collections.abc import Sequence

from optuna.trial import FrozenTrial

from mergesearch.search.report.page.elements import details, section
from mergesearch.search.report.page.figures import BLUE, GREEN, GREY, categories, figure, label, rounded, rows_height
from mergesearch.search.report.sections._dimensions import share_of
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_store import RunStore
from mergesearch.search.verdict.result import Verdict

BEST = 10
"""How many candidates have a line."""
SHOWN = 16
"""How many dimensions stand in the figure; one of all can be unfolded."""


def best_trials(store: RunStore, verdict: Verdict, names: Sequence[str]) -> str:
    """The figure; empty where fewer than two candidates were sampled.

    names: the dimensions, the most important first.
    """
    trials = sorted((each for each in t.contenders(store.study) if _is_sampled(each)), key=t.rank)[:BEST]
    if len(trials) < 2 or not names:
        return ""
    caption = (
        f"The {len(trials)} best candidates that the search sampled and scored in full, by the objective on the search "
        f"items, {t.score_of(trials[-1]):.4f} to {t.score_of(trials[0]):.4f}; the best is blue, "
        "the winner thick and green."
    )
    every = _figure(trials, sorted(names), verdict, ("best-trials-all", "The same, in all dimensions."))
    return section(
        "The best candidates",
        _figure(trials, names[:SHOWN], verdict, ("best-trials", caption)),
        details(f"All {len(names)} dimensions", every) if len(names) > SHOWN else "",
    )


def _is_sampled(trial: FrozenTrial) -> bool:
    return t.kind_of(trial) not in t.NAMED and bool(trial.params)


def _figure(trials: Sequence[FrozenTrial], dimensions: Sequence[str], verdict: Verdict, about: tuple[str, str]) -> str:
    """Dimensions from top to bottom, so that their names have room; the winner is drawn last."""
    from plotly import graph_objects as go

    drawn = go.Figure()
    for trial in reversed(trials):
        is_winner = trial.number == verdict.winner.trial
        has = [at for at, name in enumerate(dimensions) if name in trial.params]
        values = [trial.params[dimensions[at]] for at in has]
        drawn.add_scatter(
            x=[rounded(share_of(trial.distributions[dimensions[at]], trial.params[dimensions[at]])) for at in has],
            y=has,
            text=[f"{label(dimensions[at])}: {_shown(value)}" for at, value in zip(has, values, strict=True)],
            mode="lines+markers",
            name=f"{label(t.label_of(trial))}, {t.score_of(trial):.4f}",
            line={
                "color": GREEN if is_winner else BLUE if trial is trials[0] else GREY,
                "width": 3 if is_winner else 1,
            },
            marker={"size": 6 if is_winner else 4},
            opacity=1 if is_winner else 0.6,
            hovertemplate="%{text}<extra>%{fullData.name}</extra>",
            showlegend=False,
        )
    drawn.update_layout(yaxis=categories(dimensions), xaxis={"range": [-0.03, 1.03], "tickformat": ".0%"})
    drawn.update_layout(xaxis_title="place in the dimension's range")
    return figure(drawn, *about, rows_height(dimensions))


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else label(value)
