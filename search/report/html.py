"""The report: one HTML page that needs no network, with the verdict, the candidates and the history of the search."""

import hashlib
from collections.abc import Callable, Sequence
from itertools import accumulate, product
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from mergesearch.files import write_text
from mergesearch.search.report.front_figure import front_figure, front_table
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_store import RunStore
from mergesearch.search.verdict.formatting import interval
from mergesearch.search.verdict.result import CandidateRow, Verdict
from mergesearch.search.verdict.wording import (
    front_in_words,
    looks_in_words,
    marked_name,
    notes_in_words,
    shown_baselines,
)
from mergesearch.text import SCREEN, as_html

COLOURS = {
    t.BASELINE: "#8a8f98",
    t.GRADIENT: "#7a4fb5",
    t.SWEEP: "#9db4c9",
    t.LEVEL: "#3f8fa8",
    t.SAMPLED: "#2563a8",
    t.CENTRE: "#b0413e",
    t.STEP: "#b8c4d2",
    t.SOUP: "#2a8f5b",
}
LABEL = 80
"""The most characters of a name in a figure."""
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1c1e21; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.verdict { padding: .8rem 1rem; border-left: 4px solid #2563a8; background: #f3f6fa; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid #e3e5e8; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } tr.winner { font-weight: 600; background: #f3f6fa; }
pre { background: #f6f7f8; padding: .8rem; overflow-x: auto; } .note { color: #5b6068; }
.wide { overflow-x: auto; }
"""


def write_report(store: RunStore, verdict: Verdict) -> None:
    """Writes ``report.html`` to the run's folder."""
    name = as_html(store.folder.path.name)
    winner = next(trial for trial in t.finished(store.study) if trial.number == verdict.winner.trial)
    rows = [*shown_baselines(verdict), verdict.winner, *([verdict.ensemble] if verdict.ensemble else [])]
    recipe = t.recipe_of(winner).to_yaml()
    parts = [
        f"<h1>{name}</h1><p class=verdict>{as_html(verdict.sentence)}</p>",
        f"<p class=note>{as_html(_facts(verdict), 10 * SCREEN)}</p>",
        *(f"<p class=note>Warning: {as_html(warning, SCREEN)}</p>" for warning in verdict.warnings),
        "<h2>Candidates</h2>",
        _table(rows, verdict),
        _html(_intervals(rows), "intervals", first=True),
        *_front(store, verdict),
        *_prospects(verdict),
        "<h2>The search</h2>",
        _html(_history(store), "history"),
        *(f"<p class=note>{as_html(line, SCREEN)}</p>" for line in store.study.user_attrs.get(t.SIGNAL, ())),
        *([_html(_items(store), "items")] if verdict.stopped else []),
        "<h2>The winner against each baseline, on the test items</h2>",
        _comparisons(verdict),
        *_evidence(verdict),
        f"<h2>The search's best recipe, {as_html(verdict.winner.name)}</h2>",
        f"<pre>{as_html(recipe, len(recipe))}</pre>",
    ]
    page = f"<title>{name}</title><style>{STYLE}</style>{''.join(parts)}"
    write_text(store.folder.path / "report.html", _sealed(page.encode()).decode())


def _sealed(page: bytes) -> bytes:
    """The page behind a digest of it, by which damage is found."""
    return b"<!doctype html><meta charset=utf-8><meta name=digest content=%s>%s" % (
        hashlib.sha256(page).hexdigest().encode(),
        page,
    )


def is_whole_report(folder: Path) -> bool:
    """Whether the run's folder has a report, and it is what was written."""
    file = folder / "report.html"
    content = file.read_bytes() if file.is_file() else b""
    return content == _sealed(content[len(_sealed(b"")) :])


def _front(store: RunStore, verdict: Verdict) -> list[str]:
    """With several objectives: a figure of the front, and a table of its members."""
    if verdict.front is None:
        return []
    figure = front_figure(verdict.front, t.completed(store.study), verdict.winner.trial)
    return [
        "<h2>The Pareto front, on the search items</h2>",
        f"<p class=note>{as_html(front_in_words(verdict))}</p>",
        _html(_styled(figure, 520), "front"),
        front_table(verdict.front, verdict.winner.trial),
    ]


def _prospects(verdict: Verdict) -> list[str]:
    """What there was to win after the baselines, and what the test items can prove."""
    if verdict.prospects is None:
        return []
    lines = "".join(f"<li>{as_html(line.strip(), SCREEN)}</li>" for line in verdict.prospects.in_words)
    return [f"<h2>What there was to win after the baselines, on the search items</h2><ul>{lines}</ul>"]


def _facts(verdict: Verdict) -> str:
    share = verdict.items_spent / max(1, verdict.items_in_full)
    facts = [
        *notes_in_words(verdict, with_front=False),
        f"{verdict.trials} trials, {verdict.stopped} of them stopped early; {verdict.items_spent:,} items scored, "
        f"{share:.0%} of the items that all trials in full would take{_descended(verdict)}.",
        f"The search ended: {verdict.ended}." if verdict.ended else "",
        looks_in_words(verdict.test_looks - 1),
    ]
    return " ".join(filter(None, facts))


def _descended(verdict: Verdict) -> str:
    count, worth = verdict.items_descended, verdict.items_worth
    return f"; gradients were taken on {count:,} more, which took as long as scoring {worth:,}" if count else ""


def _comparisons(verdict: Verdict) -> str:
    body = "".join(
        f"<tr><td>{as_html(one.baseline)}</td><td>{interval(one.difference, '+', 4)}</td><td>{one.p:.4f}</td>"
        f"<td>{interval(one.together, '+', 4)}</td><td>{one.p_together:.4f}</td></tr>"
        for one in verdict.comparisons
    )
    note = (
        "<p class=note>The winner is better than every baseline where each p is below 0.05. What is said of single "
        "baselines takes the last two columns, which hold for all comparisons together.</p>"
    )
    heads = "".join(f"<th>{head}</th>" for head in ("", "difference", "p", "together", "p together"))
    return f"<table><tr>{heads}</tr>{body}</table>{note}"


def _evidence(verdict: Verdict) -> list[str]:
    """What the test items of each task say of the difference, where there are several tasks."""
    if len(verdict.evidence) < 2:
        return []
    body = "".join(
        f"<tr><td>{as_html(one.task)}</td><td>{one.items:,}</td><td>{one.clusters:,}</td>"
        f"<td>{'' if one.variance_share is None else format(one.variance_share, '.0%')}</td></tr>"
        for one in verdict.evidence
    )
    note = (
        f"<p class=note>Of the difference between {as_html(verdict.winner.name)} and {as_html(verdict.best_baseline)}. "
        "Items of one group, such as a file, count once.</p>"
    )
    heads = "".join(f"<th>{head}</th>" for head in ("", "test items", "groups", "share of the variance"))
    return [f"<h2>What each task's test items say</h2><table><tr>{heads}</tr>{body}</table>{note}"]


def _table(rows: Sequence[CandidateRow], verdict: Verdict) -> str:
    objective = "weighted sum, " if verdict.front else ""
    heads = ["", f"{objective}search", "test", *(f"{task} {metric}" for task, metric in verdict.metrics.items())]
    head = "".join(f"<th>{as_html(text)}</th>" for text in heads)
    body = "".join(_table_row(row, verdict) for row in rows)
    note = "<p class=note>With 95 % intervals; the tasks' columns are on the test items.</p>"
    return f"<div class=wide><table><tr>{head}</tr>{body}</table></div>{note}"


def _table_row(row: CandidateRow, verdict: Verdict) -> str:
    both = (interval(estimate) for estimate in (row.search, row.test))
    tasks = (f"{values['test']:.3f}" if "test" in values else "" for values in row.tasks.values())
    cells = "".join(f"<td>{as_html(text)}</td>" for text in (marked_name(verdict, row), *both, *tasks))
    return f"<tr{' class=winner' if row is verdict.winner else ''}>{cells}</tr>"


def _html(figure: Any, name: str, first: bool = False) -> str:
    """The figure's part of the page. Its ``name`` is fixed, so that the same run gives the same bytes."""
    config = {"displaylogo": False}
    return str(figure.to_html(full_html=False, include_plotlyjs=first, config=config, div_id=name))


def _intervals(rows: Sequence[CandidateRow]) -> Any:
    from plotly import graph_objects as go

    figure = go.Figure()
    for side, colour in (("search", "#b8c4d2"), ("test", "#2563a8")):
        estimates = [getattr(row, side) for row in rows]
        errors = {
            "type": "data",
            "symmetric": False,
            "array": [0.0 if e.is_unbounded else e.high - e.value for e in estimates],
            "arrayminus": [0.0 if e.is_unbounded else e.value - e.low for e in estimates],
        }
        figure.add_scatter(
            x=[e.value for e in estimates],
            y=[as_html(row.name, LABEL) for row in rows],
            error_x=errors,
            mode="markers",
            name=f"{side} items",
            marker={"color": colour, "size": 9},
        )
    figure.update_layout(xaxis_title="objective, 95 % interval", yaxis={"autorange": "reversed", "type": "category"})
    return _styled(figure, 120 + 34 * len(rows))


def _history(store: RunStore) -> Any:
    from plotly import graph_objects as go

    figure = go.Figure()
    _add_trials(figure, [*t.completed(store.study), *t.stopped(store.study)], t.score_of)
    trials = t.contenders(store.study)
    best = [t.score_of(trial) for trial in accumulate(trials, _better)]
    numbers = [trial.number for trial in trials]
    last = t.finished(store.study)[-1].number
    figure.add_scatter(
        x=[*numbers, last],
        y=[*best, best[-1]],
        mode="lines",
        name="best so far",
        line={"shape": "hv", "color": "#1c1e21"},
    )
    figure.update_layout(xaxis_title="trial", yaxis_title="objective on the search items")
    return _styled(figure, 420)


def _better(one: FrozenTrial, two: FrozenTrial) -> FrozenTrial:
    return min(one, two, key=t.rank)


def _items(store: RunStore) -> Any:
    from plotly import graph_objects as go

    figure = go.Figure()
    _add_trials(figure, [*t.completed(store.study), *t.stopped(store.study)], t.items_of)
    figure.update_layout(xaxis_title="trial", yaxis_title="items scored", yaxis={"rangemode": "tozero"})
    return _styled(figure, 300)


def _scored_in_words(trial: FrozenTrial) -> str:
    same = trial.user_attrs.get(t.SAME_AS)
    return f"the same model as {as_html(same, LABEL)}" if same else f"{t.items_of(trial)} items"


def _add_trials(figure: Any, trials: Sequence[FrozenTrial], height: Callable[[FrozenTrial], float | None]) -> None:
    """A dot for each trial; hollow if it was stopped early."""
    for (kind, colour), stopped in product(COLOURS.items(), (False, True)):
        chosen = [
            trial for trial in trials if t.kind_of(trial) == kind and (trial.state == TrialState.PRUNED) is stopped
        ]
        if chosen:
            figure.add_scatter(
                x=[trial.number for trial in chosen],
                y=[height(trial) for trial in chosen],
                text=[f"{as_html(t.label_of(trial), LABEL)}, {_scored_in_words(trial)}" for trial in chosen],
                mode="markers",
                name=f"{kind}, stopped early (estimate)" if stopped else kind,
                marker={"color": colour, "size": 8, "symbol": "circle-open" if stopped else "circle"},
            )


def _styled(figure: Any, height: int) -> Any:
    figure.update_layout(template="plotly_white", height=height, margin={"t": 30, "r": 20, "b": 50, "l": 60})
    figure.update_yaxes(automargin=True)
    return figure
