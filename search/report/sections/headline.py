"""The verdict: as a sentence, as a figure, and what stands beside it."""

from typing import Any

from mergesearch.search.report.page.elements import bullets
from mergesearch.search.report.page.figures import BLUE, GREEN, GREY, RED, categories, error_bar, figure, rounded
from mergesearch.search.statistics import Estimate
from mergesearch.search.study.run_store import RunStore
from mergesearch.search.verdict.comparison import Claim
from mergesearch.search.verdict.result import CandidateRow, Verdict, shown_name
from mergesearch.search.verdict.wording import looks_in_words, notes_in_words
from mergesearch.text import as_html


def headline(_: RunStore, verdict: Verdict) -> str:
    """The sentence, the figure of the difference, and the notes."""
    return "".join(
        [
            f"<p class=verdict>{as_html(verdict.sentence)}</p>",
            *([_figure(verdict)] if _has_figure(verdict) else []),
            bullets([*facts(verdict), *(f"Warning: {warning}" for warning in verdict.warnings)]),
        ]
    )


def facts(verdict: Verdict) -> list[str]:
    """What there is to say beside the verdict's sentence."""
    share = verdict.items_spent / max(1, verdict.items_in_full)
    said = [
        *notes_in_words(verdict, with_front=False),
        f"{verdict.trials} trials, {verdict.stopped} of them stopped early; {verdict.items_spent:,} items scored, "
        f"{share:.0%} of the items that all trials in full would take{_descended(verdict)}.",
        f"The search ended: {verdict.ended}." if verdict.ended else "",
        looks_in_words(verdict.test_looks - 1),
    ]
    return [line for line in said if line]


def _descended(verdict: Verdict) -> str:
    count, worth = verdict.items_descended, verdict.items_worth
    return f"; gradients were taken on {count:,} more, which took as long as scoring {worth:,}" if count else ""


def _figure(verdict: Verdict) -> str:
    """Winner and best baseline on one axis; their difference, with the line of no difference, on another."""
    from plotly.subplots import make_subplots

    leader, rival, claim, what = _compared(verdict)
    names = [shown_name(leader), shown_name(rival)]
    drawn = make_subplots(rows=2, cols=1, row_heights=[0.58, 0.42], vertical_spacing=0.3)
    colour = GREEN if claim.is_proven else RED if claim.is_refuted else GREY
    _add(drawn, 1, [leader.test, rival.test], [BLUE, GREY])
    _add(drawn, 2, [claim.difference], [colour])
    drawn.update_yaxes(categories(names), row=1, col=1)
    drawn.update_yaxes(categories(["difference"]), row=2, col=1)
    drawn.update_xaxes(title_text="objective on the test items", row=1, col=1)
    drawn.update_xaxes(
        title_text=f"difference from the {what}", row=2, col=1, range=_with_zero(claim.difference), zeroline=False
    )
    drawn.add_vline(x=0, line={"color": RED, "width": 2, "dash": "dot"}, row=2, col=1)
    caption = (
        f"{names[0]} and the {what}, {names[1]}, on the {verdict.test_items:,} test items, with 95 % intervals. "
        "The two are scored on the same items, so that the interval of their difference is what decides."
    )
    return figure(drawn, "verdict", caption, 290)


def _has_figure(verdict: Verdict) -> bool:
    recovered = verdict.recovery is not None and verdict.recovery.is_recommended
    return recovered or verdict.winner.name != verdict.best_baseline


def _compared(verdict: Verdict) -> tuple[CandidateRow, CandidateRow, Claim, str]:
    """The two candidates of the headline, the claim about them, and what the second one is."""
    baseline = next(row for row in verdict.rows if row.name == verdict.best_baseline)
    if verdict.recovery is None or not verdict.recovery.is_recommended:
        return verdict.winner, baseline, verdict.claim, "best baseline"
    rival = max(baseline, verdict.winner, key=lambda row: row.test.value)
    return verdict.recovery.row, rival, verdict.recovery.claim, "best without recovery"


def _with_zero(difference: Estimate) -> list[float]:
    """The ends of an axis that shows the interval and zero."""
    ends = [0.0, difference.value, *([] if difference.is_unbounded else [difference.low, difference.high])]
    margin = 0.08 * (max(ends) - min(ends)) or 0.01
    return [rounded(min(ends) - margin), rounded(max(ends) + margin)]


def _add(drawn: Any, row: int, estimates: list[Estimate], colours: list[str]) -> None:
    for at, (estimate, colour) in enumerate(zip(estimates, colours, strict=True)):
        drawn.add_scatter(
            x=[rounded(estimate.value)],
            y=[at],
            error_x=error_bar(estimate),
            mode="markers",
            marker={"color": colour, "size": 11},
            hovertemplate="%{x}<extra></extra>",
            showlegend=False,
            row=row,
            col=1,
        )
