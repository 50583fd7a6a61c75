"""The winner against each baseline, and what each task's test items say."""

from mergesearch.search.report.page.elements import Row, note, number, section, table
from mergesearch.search.study.run_store import RunStore
from mergesearch.search.verdict.result import Verdict

RULE = (
    "The winner is better than every baseline where each p is below 0.05. What is said of single baselines takes the "
    "last two columns, which hold for all comparisons together."
)


def comparisons(_: RunStore, verdict: Verdict) -> str:
    """The table of differences; empty where there is nothing to compare."""
    if not verdict.comparisons:
        return ""
    heads = ["baseline", "difference", "p", "together", "p together"]
    rows: list[Row] = [
        [
            one.baseline,
            number(one.difference, "+", 4),
            f"{one.p:.4f}",
            number(one.together, "+", 4),
            f"{one.p_together:.4f}",
        ]
        for one in verdict.comparisons
    ]
    caption = f"{verdict.winner.name} minus each baseline, in the objective, with 95 % intervals."
    return section(
        "The winner against each baseline, on the test items",
        table(caption, heads, rows),
        note(RULE),
    )


def evidence(_: RunStore, verdict: Verdict) -> str:
    """What the test items of each task say of the difference, where there are several tasks."""
    if len(verdict.evidence) < 2:
        return ""
    rows = [
        [
            one.task,
            f"{one.items:,}",
            f"{one.clusters:,}",
            "" if one.variance_share is None else f"{one.variance_share:.0%}",
        ]
        for one in verdict.evidence
    ]
    heads = ["task", "test items", "groups", "share of the variance"]
    caption = f"Of the difference between {verdict.winner.name} and {verdict.best_baseline}."
    return section(
        "What each task's test items say",
        table(caption, heads, rows),
        note("Items of one group, such as a file, count once."),
    )
