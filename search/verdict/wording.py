"""The wording of a verdict: the headline and the sentences beside it."""

from collections.abc import Sequence

from mergesearch.search.candidates.usual_settings import USUAL
from mergesearch.search.verdict.comparison import Claim, Power, deciding
from mergesearch.search.verdict.constraint_checks import broken
from mergesearch.search.verdict.formatting import interval
from mergesearch.search.verdict.result import CandidateRow, ConstraintResult, RecoveryResult, Verdict, shown_name

NO_CONSTRAINTS = ConstraintResult([])


def headline(  # noqa: PLR0913, PLR0917 - what a verdict says
    winner: CandidateRow,
    rival: CandidateRow,
    claim: Claim,
    items: int,
    power: Power | None = None,
    limits: ConstraintResult = NO_CONSTRAINTS,
) -> str:
    """The headline: what the verdict recommends, and why."""
    name = shown_name(winner)
    if winner.trial == rival.trial:
        return f"Use {name}, the best baseline: the search has no other candidate."
    if not limits.winner_keeps:
        missed = " and ".join(f"{c.constraint} (by {-c.search:.4f})" for c in limits.checks if c.search < 0)
        no = f"Use {rival.name}: no candidate of the search" if limits.rival_keeps else "No candidate"
        return (
            f"{no} satisfies every constraint on the search items; the nearest of the search, {name}, misses {missed}."
        )
    if failed := broken(limits.checks):
        missed = " and ".join(f"{check.constraint} (by {-check.margin:.4f})" for check in failed)
        return f"Use {rival.name}: the best candidate of the search, {name}, breaks {missed} on the test items."
    gain = f"{interval(claim.difference, '+', 4)} on {items:,} test items, p = {claim.p:.4f}"
    if not limits.rival_keeps:
        why = f"it satisfies every constraint, which no baseline does; its gain over the nearest, {rival.name}"
        return f"Use {name}: {why}, is {gain}."
    if claim.is_proven:
        why = f"it is proven better than every baseline; its gain over the best of them, {rival.name}"
        return f"Use {name}: {why}, is {gain}."
    return f"{_unproven(name, rival.name, claim)} {gain}.{_power_in_words(claim, items, power)}"


def recovered_headline(recovery: RecoveryResult, winner: CandidateRow, items: int) -> str:
    """The headline where the recovered winner is recommended."""
    claim, name = recovery.claim, shown_name(recovery.row)
    gain = f"{interval(claim.difference, '+', 4)} on {items:,} test items, p = {claim.p:.4f}"
    return (
        f"Use {name}: it is proven better than every baseline and than {winner.name} without recovery; its gain over "
        f"the best of them is {gain}."
    )


def _unproven(name: str, rival: str, claim: Claim) -> str:
    if claim.is_refuted:
        return f"Use {rival}: it is proven better than the best candidate of the search, {name}, whose gain is"
    if claim.difference.value < 0:
        return f"Use {rival}: on the test items it is above the best candidate of the search, {name}, whose gain is"
    if claim.difference.value == 0 or claim.hardest in ("", rival):
        return f"Use {rival}: the best candidate of the search, {name}, is not proven better; its gain is"
    not_proven = f"is not proven better than every baseline, the least so than {claim.hardest}"
    return f"Use {rival}: the best candidate of the search, {name}, {not_proven}; its gain over the best of them is"


def _power_in_words(claim: Claim, items: int, power: Power | None) -> str:
    """What the test items cannot prove, where a gain was not proven."""
    if power is None or claim.is_refuted:
        return ""
    enough = f"; {power.items:,} would do for {claim.difference.value:+.4f}" if power.items else ""
    return f" With {items:,} test items a gain below {power.detectable:.4f} cannot be counted on to be proven{enough}."


UNJUDGED = ["The best candidate of the search, by the search items alone. The verdict is not given yet."]
"""The comment of ``best.yml`` before the verdict."""


def best_comment(verdict: Verdict) -> list[str]:
    """What ``best.yml`` says of itself, line by line; without a trial's number, which a killed run has another of."""
    row = verdict.winner
    if row.name == verdict.best_baseline:
        return [f"The best baseline, {row.name}: {_values(row)}. The search has no other candidate."]
    is_recommended = verdict.recommended == row.name
    advice = "It is recommended" if is_recommended else f"{verdict.recommended} is recommended instead"
    return [f"The best candidate of the search ({row.method}): {_values(row)}. {advice}.", _gain(verdict)]


def recommended_comment(verdict: Verdict) -> list[str]:
    """What ``recommended.yml`` says of itself, line by line; see ``best_comment``."""
    row = verdict.recommended_row
    if verdict.recovery and row.name == verdict.recovery.row.name:
        return [f"Recommended: the best candidate of the search ({row.method}) after recovery: {_values(row)}."]
    if row.name == verdict.winner.name != verdict.best_baseline:
        return [f"Recommended: the best candidate of the search ({row.method}): {_values(row)}.", _gain(verdict)]
    return [f"Recommended: the baseline {row.name}: {_values(row)}."]


def _values(row: CandidateRow) -> str:
    return f"{interval(row.search)} on the search items, {interval(row.test)} on the test items"


def _gain(verdict: Verdict) -> str:
    gain = interval(verdict.difference, "+", 4)
    return f"Minus {verdict.best_baseline}, the best baseline on the test items: {gain}, p = {verdict.p:.4f}."


def optimism_in_words(verdict: Verdict) -> str:
    """The gain on the search items, on which the winner was selected, beside the gain on the test items.

    The best baseline on the one may be another than that on the other.
    """
    if verdict.optimism is None or verdict.winner.name == verdict.best_baseline:
        return ""
    before, now = verdict.search_difference.value, verdict.difference.value
    lead = f"The lead of {verdict.winner.name} over the best baseline on the same items is"
    leads = f"{lead} {before:+.4f} on the search items, on which it was selected, and {now:+.4f} on the test items"
    return f"{leads}: {verdict.optimism:.4f} of it came from the selection." if before > max(now, 0) else f"{leads}."


def comparisons_in_words(verdict: Verdict) -> str:
    """The baselines that the winner is proven to be better than, where that is not so for all of them."""
    shown = {row.name for row in shown_baselines(verdict)}
    names = [one.baseline for one in verdict.comparisons if one.is_proven and one.baseline in shown]
    if verdict.beyond_chance or not names:
        return ""
    return f"{verdict.winner.name} is proven better than {', '.join(names)} (p of all comparisons together)."


def graded_in_words(verdict: Verdict) -> str:
    """The same comparison in the graded objective, which the search is told."""
    if verdict.graded is None:
        return ""
    gain = f"{interval(verdict.graded.difference, '+', 4)}, p = {verdict.graded.p:.4f}"
    return f"In the graded objective, on the same test items: {gain}. The verdict does not depend on it."


def recovery_in_words(verdict: Verdict) -> str:
    """What recovery of the winner brought, beside the ensemble."""
    found = verdict.recovery
    if found is None:
        return ""
    name, gain = found.row.name, f"{interval(found.gain.difference, '+', 4)}, p = {found.gain.p:.4f}"
    ensemble = f"; minus the ensemble: {interval(found.from_ensemble, '+', 4)}" if found.from_ensemble else ""
    advice = "" if found.is_recommended else f" It is not recommended: {_why_not_recovered(found)}."
    return (
        f"{name} minus {verdict.winner.name} on the test items: {gain}{ensemble}.{advice} Both are candidates of this "
        "look, so p in the headline is corrected for two (Holm)."
    )


def _why_not_recovered(found: RecoveryResult) -> str:
    if missed := [str(check.constraint) for check in found.checks if check.is_broken or check.search < 0]:
        return f"it breaks {' and '.join(missed)}"
    if found.gain.difference.value < 0:
        return "it is worse than the same merge without recovery"
    return "it is not proven better than every baseline and than the same merge without recovery"


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
    return f"{verdict.front.in_words} {verdict.winner.name} has the best weighted sum of the search's own candidates."


def limits_in_words(verdict: Verdict) -> str:
    """Whether the winner satisfies the constraints on the search items and on the test items."""
    return " ".join(each.in_words for each in verdict.checks)


def left_out_in_words(verdict: Verdict) -> str:
    """What the verdict is held without, and why."""
    return " ".join(
        f"This verdict is held without {each.what}, which could not be scored: {each.reason.rstrip('.')}."
        for each in verdict.left_out
    )


def notes_in_words(verdict: Verdict, with_front: bool) -> list[str]:
    """What there is to say beside the headline, a paragraph each; ``with_front``: of the Pareto front, too."""
    notes = [
        left_out_in_words(verdict),
        front_in_words(verdict) if with_front else "",
        limits_in_words(verdict),
        recovery_in_words(verdict),
        comparisons_in_words(verdict),
        evidence_in_words(verdict),
        graded_in_words(verdict),
        optimism_in_words(verdict),
    ]
    return [note for note in notes if note]


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

    A step of the greedy soup is shown where it is the best baseline. A method of the space at its usual settings is
    shown where it is another model than the baselines before it.
    """
    baselines = [row for row in verdict.baselines if row.name == verdict.best_baseline or not _is_hidden(row)]
    shown: dict[str, CandidateRow] = {}
    for row in [*baselines, *verdict.soups, *([verdict.recovery.row] if verdict.recovery else [])]:
        shown.setdefault(row.name, row)
    return [row for row in shown.values() if row.trial != verdict.winner.trial]


def marked_name(verdict: Verdict, row: CandidateRow) -> str:
    """The name of a row in the table of candidates, which says which one is recommended."""
    return f"{shown_name(row)}, recommended" if row is verdict.recommended_row else shown_name(row)


def _is_hidden(row: CandidateRow) -> bool:
    return is_step(row.name) or (row.name.endswith(USUAL) and bool(row.same_as))


def is_step(name: str) -> bool:
    """Whether a baseline of that name is a step on the way to the greedy soup."""
    return name.startswith("soup of ")
