"""The facts of a verdict: whether the winner beats the best baseline on items that the search did not use."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from math import isinf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from mergesearch.errors import DamagedFileError, UserError
from mergesearch.notebook import paragraph, table
from mergesearch.search.statistics import Estimate
from mergesearch.search.study.json_file import read_json
from mergesearch.search.verdict.comparison import Claim, Comparison, Evidence, Power
from mergesearch.search.verdict.constraint_checks import Check, broken
from mergesearch.search.verdict.formatting import interval
from mergesearch.search.verdict.front import Front
from mergesearch.search.verdict.outlook import Prospects

if TYPE_CHECKING:  # a verdict is read without torch
    from mergesearch.search.study.run_folder import RunFolder

SIDES = ("search", "test")
VERDICT = "verdict.json"
REMEDY = "run the config again, which writes it anew from the scores"
SUM = "sum"
"""The key of the file that holds a digest of all others. Verdicts of earlier versions have none."""
ENDS = ("low", "high")
FRONT = "front"
"""The folder of the front's recipes."""


@dataclass(frozen=True)
class CandidateRow:
    """One candidate. ``tasks``: each task's metric on the search items, the test items and all items.

    ``same_as``: the name of an earlier candidate that is the same model, if there is one.
    """

    name: str
    trial: int
    method: str
    search: Estimate
    test: Estimate
    tasks: dict[str, dict[str, float]]
    same_as: str = ""


@dataclass(frozen=True)
class LeftOut:
    """A candidate, or the test items of a task, that a verdict is held without, because scoring failed."""

    what: str
    reason: str


@dataclass(frozen=True)
class ConstraintResult:
    """The winner's constraint checks, and whether the winner and any baseline satisfy all on the search items."""

    checks: list[Check]
    winner_keeps: bool = True
    rival_keeps: bool = True

    def allow(self, beyond_chance: bool) -> bool:
        """Whether to recommend the winner: it is proven better, or satisfies constraints that no baseline satisfies."""
        keeps = self.winner_keeps and not broken(self.checks)
        return keeps and (beyond_chance or not self.rival_keeps)


@dataclass(frozen=True)
class RecoveryResult:
    """The winner after recovery.

    ``claim`` is its difference from the best of the baselines and the winner without recovery; ``gain`` that from the
    winner alone, with its two-sided ``p``. ``checks`` are those of its constraints. ``from_ensemble`` is its difference
    from the ensemble, where that is scored.
    """

    row: CandidateRow
    claim: Claim
    gain: Claim
    checks: list[Check] = field(default_factory=list)
    from_ensemble: Estimate | None = None

    @property
    def is_recommended(self) -> bool:
        """Whether it is proven better than every baseline and than the winner, and satisfies all constraints."""
        kept = all(check.search >= 0 for check in self.checks) and not broken(self.checks)
        return kept and self.claim.is_proven


@dataclass(frozen=True)
class Verdict:
    """The winner, which is the best candidate of the search, compared with all baselines, and with the best of them.

    ``best_baseline`` is the best baseline on the test items, of those that satisfy the constraints on the search items
    as well as any does. Where the search has no candidate of its own, winner and best baseline are the baseline that is
    best on the search items. ``difference`` is winner − best baseline in the objective on the same test items; ``p`` is
    two-sided. Both do not depend on which baseline is the best there, see ``against_all``. ``comparisons`` are with
    each baseline; ``evidence`` is each task's part in the difference from ``best_baseline``, and ``power`` what the
    test items can prove of it. ``graded`` is the difference in the graded objective that the search is told, for
    reference; None where it is the metric. ``search_difference`` is winner − best baseline on the search items, on
    which the winner was selected; ``optimism`` is how much larger it is there (None where search and test have other
    tasks). ``recommended`` is the winner if it is proven better, and else the best baseline. ``test_looks`` counts how
    often this run has scored the test items, this verdict included. ``items_spent`` is the number of scored search
    items, out of ``items_in_full`` if no candidate had been stopped; ``items_descended`` are those that gradients were
    taken on, in the processor time of scoring ``items_worth`` of them.
    ``recovery`` is the winner after recovery, a candidate of its own: the p values of its claim and of the winner's
    are corrected for two (Holm).
    ``ensemble`` is the average of the models' outputs, for reference. ``soups`` are those that the config asks for.
    ``prospects`` is what there was to win after the baselines. ``ended`` says why the search ended. ``left_out`` is
    what could not be scored on the test items. ``warnings`` are those about the checkpoints.

    With several objectives the winner has the best weighted sum, and ``front`` has all candidates that no other one
    dominates. ``checks`` are the winner's, one for each constraint; a winner that breaks a constraint on the test items
    is not recommended.
    """

    sentence: str
    beyond_chance: bool
    recommended: str
    difference: Estimate
    p: float
    search_difference: Estimate
    optimism: float | None
    test_items: int
    trials: int
    stopped: int
    items_spent: int
    items_in_full: int
    test_looks: int
    winner: CandidateRow
    best_baseline: str
    comparisons: list[Comparison]
    baselines: list[CandidateRow]
    metrics: dict[str, str]
    evidence: list[Evidence] = field(default_factory=list)
    power: Power | None = None
    graded: Claim | None = None
    ensemble: CandidateRow | None = None
    soups: list[CandidateRow] = field(default_factory=list)
    recovery: RecoveryResult | None = None
    prospects: Prospects | None = None
    ended: str = ""
    items_descended: int = 0
    items_worth: int = 0
    checks: list[Check] = field(default_factory=list)
    front: Front | None = None
    left_out: list[LeftOut] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self, dict_factory=as_json)

    def __str__(self) -> str:
        return self.sentence

    def _repr_html_(self) -> str:
        rows = [row for row in self.rows if row is not self.winner]
        rows = [row for row in rows if not row.same_as and row.name != self.winner.name] + [self.winner]
        heads = ["candidate", "search items", "test items", *(f"{task} {name}" for task, name in self.metrics.items())]
        marked = [row.name == self.recommended for row in rows]
        return paragraph(self.sentence, strong=True) + table(heads, list(map(cells_of, rows)), marked)

    @property
    def claim(self) -> Claim:
        """The difference and its p."""
        return Claim(self.difference, self.p)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Verdict:
        """What ``to_json`` gave."""
        return TypeAdapter(cls).validate_python(data)

    @property
    def recommended_row(self) -> CandidateRow:
        """The row of what is recommended."""
        return next((row for row in self.rows if row.name == self.recommended), self.winner)

    @property
    def rows(self) -> list[CandidateRow]:
        """The winner, the baselines, the soups and the recovered winner."""
        return [self.winner, *self.baselines, *self.soups, *([self.recovery.row] if self.recovery else [])]


def cells_of(row: CandidateRow) -> list[str]:
    """Of a table of candidates: the name, the objective on both sides, and each task on the test items."""
    tasks = (f"{values['test']:.3f}" if "test" in values else "" for values in row.tasks.values())
    return [shown_name(row), interval(row.search), interval(row.test), *tasks]


def as_json(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON has no infinities: an end of an interval that is infinite becomes null; see ``Estimate``."""
    return {key: None if isinstance(value, float) and isinf(value) and key in ENDS else value for key, value in items}


def write_verdict(folder: RunFolder, verdict: Verdict) -> None:
    """Writes the verdict of a run."""
    from mergesearch.evaluators import content_hash

    folder.write_json(VERDICT, {**verdict.to_json(), SUM: content_hash(verdict.to_json())})


def read_verdict(folder: RunFolder) -> Verdict | None:
    """The verdict of a run; see ``verdict_in``."""
    return verdict_in(folder.path)


def verdict_in(folder: Path) -> Verdict | None:
    """The verdict in the folder of a run; None where it has none yet.

    Raises DamagedFileError where its file is damaged.
    """
    from mergesearch.evaluators import content_hash

    verdict = read_json(folder / VERDICT, Verdict, REMEDY)
    content = read_json(folder / VERDICT, dict[str, Any], REMEDY) or {}
    if SUM in content and content.pop(SUM) != content_hash(content):
        raise DamagedFileError(folder / VERDICT, "is damaged: it is not what was written", REMEDY)
    return verdict


def held_verdict(folder: Path) -> Verdict:
    """The verdict in the folder of a run. Raises UserError where it has none yet, and as ``verdict_in`` does."""
    verdict = verdict_in(folder)
    if verdict is None:
        raise UserError(f"{folder}: has no verdict yet; run its config again to resume it")
    return verdict


def shown_name(row: CandidateRow) -> str:
    """The name of the row in a table; that of a trial with its method."""
    return f"{row.name} ({row.method})" if row.name.startswith("trial ") else row.name
