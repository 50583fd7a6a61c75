"""The wording of a verdict: the headline and the sentences beside it."""

from collections.abc import Sequence

from mergesearch.search.verdict.comparison import Claim, deciding
from mergesearch.search.verdict.constraint_checks import broken
from mergesearch.search.verdict.formatting import interval
from mergesearch.search.verdict.result import CandidateRow, ConstraintResult, Verdict, shown_name

NO_CONSTRAINTS = ConstraintResult([])


def headline(
    winner: CandidateRow,
    rival: CandidateRow,
    claim: Claim,
    items: int,
    limits: ConstraintResult = NO_CONSTRAINTS,
) -> str:
    """The headline: what the verdict recommends, and why."""
    name = shown_name(winner)
    if not limits.winner_keeps:
        missed = " and ".join(f"{c.constraint} (by {-c.search:.4f})" for c in limits.checks if c.search < 0)
        return f"No candidate satisfies every constraint on the search items: {name}, the nearest, misses {missed}."
    if failed := broken(limits.checks):
        missed = " and ".join(f"{check.constraint} (by {-check.margin:.4f})" for check in failed)
        return f"{name}, the best candidate of the search, is not recommended: on the test items it breaks {missed}."
    if winner.trial == rival.trial:
        return f"Use {winner.name}: the search found nothing better."
    return _compared_in_words(name, rival, claim, items, limits.rival_keeps)


def _compared_in_words(name: str, rival: CandidateRow, claim: Claim, items: int, rival_keeps: bool) -> str:
    gain = f"{interval(claim.difference, '+', 4)} on {items} test items, p = {claim.p:.4f}"
    if not rival_keeps:
        return f"{name} satisfies every constraint, which no baseline does; minus the nearest, {rival.name}: {gain}."
    if claim.is_proven:
        return f"{name} beats every baseline beyond chance; minus the best of them, {rival.name}: {gain}."
    if claim.is_refuted:
        return f"Use {rival.name}: the best candidate of the search, {name}, is worse beyond chance: {gain}."
    return f"Use {rival.name}: the best candidate of the search, {name}, is not proven better: {gain}."


def optimism_in_words(verdict: Verdict) -> str:
    """The gain on the search items, on which the winner was selected, beside the gain on the test items."""
    if verdict.optimism is None or verdict.winner.name == verdict.best_baseline:
        return ""
    before, now = verdict.search_difference.value, verdict.difference.value
    gains = (
        f"The gain is {before:+.4f} on the search items, on which the winner was selected, and {now:+.4f} on the test"
    )
    return (
        f"{gains} items: {verdict.optimism:.4f} of it came from the selection." if before > now else f"{gains} items."
    )


def difference_in_words(verdict: Verdict) -> str:
    """The winner compared with the best baseline."""
    on = f"on {verdict.test_items} test items"
    if verdict.winner.name == verdict.best_baseline:
        return f"winner − best baseline {on}: none, the winner is the best baseline, {verdict.best_baseline}"
    difference = interval(verdict.difference, "+")
    return f"winner − best baseline ({verdict.best_baseline}) {on}: {difference}, p = {verdict.p:.4f}"


def comparisons_in_words(verdict: Verdict) -> str:
    """The baselines that the winner is proven to be better than, where that is not so for all of them."""
    names = [one.baseline for one in verdict.comparisons if one.is_proven]
    if verdict.beyond_chance or not names:
        return ""
    return f"{verdict.winner.name} is proven better than {', '.join(names)} (p of all comparisons together)."


def graded_in_words(verdict: Verdict) -> str:
    """The same comparison in the graded objective, which the search is told."""
    if verdict.graded is None:
        return ""
    gain = f"{interval(verdict.graded.difference, '+', 4)}, p = {verdict.graded.p:.4f}"
    return f"In the graded objective, on the same test items: {gain}. The verdict does not depend on it."


def evidence_in_words(verdict: Verdict) -> str:
    """A warning where one task with few of the test items decides what can be proven."""
    task = deciding(verdict.evidence)
    if task is None:
        return ""
    return (
        f"Warning: task {task.task} has {task.variance_share or 0:.0%} of the variance of the difference and "
        f"{task.items} of the {verdict.test_items} test items, in {task.clusters} groups: more items of this task "
        "would prove the most."
    )


def front_in_words(verdict: Verdict) -> str:
    """The size of the front, its knee, and how the winner was selected from it."""
    if verdict.front is None:
        return ""
    return f"{verdict.front.in_words} {verdict.winner.name} has the best weighted sum of the tasks."


def limits_in_words(verdict: Verdict) -> str:
    """Whether the winner satisfies the constraints on the search items and on the test items."""
    return " ".join(each.in_words for each in verdict.checks)


def left_out_in_words(verdict: Verdict) -> str:
    """What the verdict is held without, and why."""
    return " ".join(
        f"This verdict is held without {each.what}, which could not be scored: {each.reason.rstrip('.')}."
        for each in verdict.left_out
    )


def looks_in_words(before: int) -> str:
    """How often the test items were scored before, and what that means."""
    if not before:
        return "The test items were not scored before this verdict."
    times = "once" if before == 1 else f"{before} times"
    return (
        f"The test items were scored {times} before this verdict. Decisions made after that bias interval and p; "
        "a proof needs new test items."
    )


def shown_baselines(verdict: Verdict) -> Sequence[CandidateRow]:
    """The rows of a table beside the winner: baselines and soups, each once.

    A step of the greedy soup is shown where it is the best baseline.
    """
    baselines = [row for row in verdict.baselines if row.name == verdict.best_baseline or not _is_step(row)]
    shown: dict[str, CandidateRow] = {}
    for row in [*baselines, *verdict.soups]:
        shown.setdefault(row.name, row)
    return [row for row in shown.values() if row.trial != verdict.winner.trial]


def _is_step(row: CandidateRow) -> bool:
    return row.name.startswith("soup of ")
