"""What a verdict says, in words: its headline, and what stands beside it."""

from collections.abc import Sequence

from mergesearch.search.verdict.front import broken
from mergesearch.search.verdict.result import LEVEL, Comparison, Limits, Row, Verdict, shown_name

NO_LIMITS = Limits([])


def headline(winner: Row, rival: Row, against: Comparison, items: int, limits: Limits = NO_LIMITS) -> str:
    """The sentence that counts."""
    name = shown_name(winner)
    if not limits.winner_keeps:
        missed = " and ".join(f"{c.constraint} (by {-c.search:.4f})" for c in limits.checks if c.search < 0)
        return f"No candidate keeps every constraint on the search items: {name}, the nearest, misses {missed}."
    if failed := broken(limits.checks):
        missed = " and ".join(f"{check.constraint} (by {-check.margin:.4f})" for check in failed)
        return f"Do not count on {name}, the best that the search found: on the test items it breaks {missed}."
    if winner.trial == rival.trial:
        return f"The search found nothing better than {winner.name}: use that."
    return _compared_in_words(name, rival, against, items, limits.rival_keeps)


def _compared_in_words(name: str, rival: Row, against: Comparison, items: int, rival_keeps: bool) -> str:
    found, p = against.difference, against.p
    gain = f"{found.value:+.4f} [{found.low:+.4f}, {found.high:+.4f}] on {items} test items, p = {p:.4f}"
    if not rival_keeps:
        return f"{name} keeps every constraint, which no baseline does; against {rival.name}, the nearest: {gain}."
    if found.low > 0 and p < LEVEL:
        return f"{name} beats the best baseline, {rival.name}, beyond chance: {gain}."
    if found.high < 0 and p < LEVEL:
        return f"Use {rival.name}: the best that the search found, {name}, is worse beyond chance: {gain}."
    return f"Use {rival.name}: the best that the search found, {name}, differs by no more than chance: {gain}."


def optimism_in_words(verdict: Verdict) -> str:
    """How the gain on the search items, where the winner was picked, compares with that on the test items."""
    if verdict.optimism is None or verdict.winner.name == verdict.best_baseline:
        return ""
    before, now = verdict.search_difference.value, verdict.difference.value
    gains = (
        f"The gain was {before:+.4f} on the search items, where the winner was picked, and is {now:+.4f} on the test"
    )
    return f"{gains} items: picking flattered it by {verdict.optimism:.4f}." if before > now else f"{gains} items."


def difference_in_words(verdict: Verdict) -> str:
    """The comparison that counts."""
    on = f"on {verdict.test_items} test items"
    if verdict.winner.name == verdict.best_baseline:
        return f"winner − best baseline {on}: none, the winner is the best baseline, {verdict.best_baseline}"
    found = verdict.difference
    interval = f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
    return f"winner − best baseline ({verdict.best_baseline}) {on}: {interval}, p = {verdict.p:.4f}"


def unproven_in_words(verdict: Verdict) -> str:
    """The other baselines that a winner is not shown to beat."""
    shown = {row.name for row in shown_baselines(verdict)} - {verdict.best_baseline}
    names = [one.baseline for one in verdict.comparisons if one.baseline in shown and not one.is_proven]
    if not verdict.beyond_chance or not names:
        return ""
    return f"Corrected for comparing with every baseline, it is not shown to beat {', '.join(names)}."


def front_in_words(verdict: Verdict) -> str:
    """How large the front is and where its knee lies, and by what the winner was picked."""
    if verdict.front is None:
        return ""
    return f"{verdict.front.in_words} {verdict.winner.name} is the best by the weights of the tasks."


def limits_in_words(verdict: Verdict) -> str:
    """Whether the winner keeps the constraints, on the search items and on the test items."""
    return " ".join(each.in_words for each in verdict.checks)


def looks_in_words(before: int) -> str:
    """What to make of test items that were looked at that often before."""
    if not before:
        return "Nothing had looked at the test items before."
    times = "once" if before == 1 else f"{before} times"
    return (
        f"The test items had been looked at {times} before: whatever was decided in their light makes the interval and "
        "p too good. Fresh test items would be proof."
    )


def shown_baselines(verdict: Verdict) -> Sequence[Row]:
    """What a table shows beside the winner: baselines and soups, each once, and none on the way to the greedy one."""
    baselines = [row for row in verdict.baselines if not row.name.startswith("soup of ")]
    shown: dict[str, Row] = {}
    for row in [*baselines, *verdict.soups]:
        shown.setdefault(row.name, row)
    return [row for row in shown.values() if row.trial != verdict.winner.trial]
