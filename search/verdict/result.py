"""The verdict's facts: whether the winner of the search beats the best baseline on items that it never looked at."""

from dataclasses import asdict, dataclass, field
from typing import Any

from mergesearch.search.statistics import Estimate
from mergesearch.search.verdict.front import Check, Front, broken

SIDES = ("search", "test")
LEVEL = 0.05
FRONT = "front"
"""The folder of the front's recipes."""


@dataclass(frozen=True)
class Row:
    """One candidate. ``tasks``: each task's metric on the search items, the test items and all items."""

    name: str
    trial: int
    method: str
    search: Estimate
    test: Estimate
    tasks: dict[str, dict[str, float]]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Row":
        return cls(**{**data, "search": Estimate(**data["search"]), "test": Estimate(**data["test"])})


@dataclass(frozen=True)
class Comparison:
    """The winner less one baseline in the objective on the same test items; ``p`` is two-sided.

    ``p_holm`` is corrected for the number of baselines that the winner is compared with (Holm 1979).
    """

    baseline: str
    difference: Estimate
    p: float
    p_holm: float

    @property
    def is_proven(self) -> bool:
        """Whether the winner is better beyond chance, many comparisons considered."""
        return self.difference.low > 0 and self.p_holm < LEVEL

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Comparison":
        return cls(**{**data, "difference": Estimate(**data["difference"])})


@dataclass(frozen=True)
class Limits:
    """What the constraints say of the winner, and which of winner and best baseline keep all on the search items."""

    checks: list[Check]
    winner_keeps: bool = True
    rival_keeps: bool = True

    def allow(self, beyond_chance: bool) -> bool:
        """Whether to recommend the winner: it is proven better, or keeps what no baseline does."""
        keeps = self.winner_keeps and not broken(self.checks)
        return keeps and (beyond_chance or not self.rival_keeps)


@dataclass(frozen=True)
class Verdict:
    """The comparison that counts is with ``best_baseline``, the best on the search items.

    ``difference`` is winner − best baseline in the objective on the same test items, ``p`` is two-sided: one test,
    settled before the test items were looked at, so that nothing is to be corrected for. ``comparisons`` are with all
    baselines. ``search_difference`` is the same on the search items, where the winner was picked as the best of many;
    ``optimism`` is how much larger it was there (None where the verdict is held on other tasks). ``recommended`` is
    the winner if it is better beyond chance, and else the best baseline. ``test_looks`` counts how often this run
    has looked at the test items, this time included. ``items_spent``, of ``items_in_full`` had no candidate been
    stopped; ``items_descended`` are those that gradients were taken on. ``ensemble`` is what averaging the models'
    outputs gives: a reference, which no verdict is held on. ``soups`` are those that were asked for, whether or not one
    of them is the winner. ``ended``: why the search did.

    With several objectives the winner is the one that the user's weights pick, and ``front`` has all that no other
    candidate beats in every objective. ``checks`` are the winner's, one for each constraint; a winner that breaks one
    on the test items is not recommended.
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
    winner: Row
    best_baseline: str
    comparisons: list[Comparison]
    baselines: list[Row]
    metrics: dict[str, str]
    ensemble: Row | None = None
    soups: list[Row] = field(default_factory=list)
    ended: str = ""
    items_descended: int = 0
    checks: list[Check] = field(default_factory=list)
    front: Front | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Verdict":
        """What ``to_json`` gave."""
        parts = {
            "difference": Estimate(**data["difference"]),
            "search_difference": Estimate(**data["search_difference"]),
            "winner": Row.from_json(data["winner"]),
            "comparisons": [Comparison.from_json(comparison) for comparison in data["comparisons"]],
            "baselines": [Row.from_json(row) for row in data["baselines"]],
            "checks": [Check.from_json(each) for each in data.get("checks", ())],
            "front": Front.from_json(data["front"]) if data.get("front") else None,
            "ensemble": Row.from_json(data["ensemble"]) if data.get("ensemble") else None,
            "soups": [Row.from_json(row) for row in data.get("soups", ())],
        }
        return cls(**{**data, **parts})


def shown_name(row: Row) -> str:
    """What a table calls the row: with the method, where the name does not say how it was made."""
    return f"{row.name} ({row.method})" if row.name.startswith("trial ") else row.name
