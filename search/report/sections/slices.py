"""Slices: what candidates were worth at each value of a dimension."""

from collections.abc import Sequence
from typing import Any

from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial

from mergesearch.search.report.page.elements import details, small_figures
from mergesearch.search.report.page.figures import BLUE, figure, label, rounded
from mergesearch.search.report.sections._dimensions import distributions_of
from mergesearch.search.study import trials as t
from mergesearch.text import as_line

SHOWN, UNFOLDED = 6, 12
"""How many dimensions are shown, and how many more can be unfolded."""


def slices(trials: Sequence[FrozenTrial], names: Sequence[str]) -> str:
    """A small figure for each of the first dimensions; more of them to be unfolded."""
    distributions = distributions_of(trials)
    figures = [
        _slice(trials, name, distributions[name], number) for number, name in enumerate(names[: SHOWN + UNFOLDED])
    ]
    more = figures[SHOWN:]
    return small_figures(figures[:SHOWN]) + details(f"Slices of {len(more)} more dimensions", small_figures(more))


def _slice(trials: Sequence[FrozenTrial], name: str, distribution: Any, number: int) -> str:
    from plotly import graph_objects as go

    having = [trial for trial in trials if name in trial.params]
    values = [trial.params[name] for trial in having]
    is_choice = isinstance(distribution, CategoricalDistribution)
    choices = list(distribution.choices) if is_choice else []
    drawn = go.Figure()
    drawn.add_scatter(
        x=[choices.index(value) if is_choice else rounded(value) for value in values],
        y=[rounded(t.score_of(trial)) for trial in having],
        customdata=[trial.number for trial in having],
        mode="markers",
        marker={"color": BLUE, "size": 7, "opacity": 0.7},
        hovertemplate="trial %{customdata}<br>%{x}: %{y}<extra></extra>",
    )
    axis = {"tickvals": list(range(len(choices))), "ticktext": list(map(label, choices))} if is_choice else {}
    kind = "log" if not is_choice and distribution.log else "linear"
    drawn.update_layout(xaxis={**axis, "type": kind, "zeroline": False}, yaxis={"zeroline": False})
    return figure(drawn, f"slice-{number}", f"Objective by {as_line(name, 80)}.", 250)
