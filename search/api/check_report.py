"""What ``mergesearch.check`` returns."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class CheckReport:
    """What a run of a config would do, and what it would cost. Shown as ``mergesearch check`` shows it.

    Attributes:
        trials: how many trials the run has in all.
        baselines: how many of them are baselines.
        dimensions: the names of the dimensions that are searched.
        items: how many search items and test items each task has.
        seconds: about how long the search takes without early stopping.
        verdict_seconds: about how long scoring a candidate of the verdict takes.
        notes: what the user should know, warnings included, one line each.
        text: the whole page.
    """

    trials: int
    baselines: int
    dimensions: Sequence[str]
    items: dict[str, tuple[int, int]]
    seconds: float
    verdict_seconds: float
    notes: Sequence[str]
    text: str = field(repr=False)
    _html: str = field(repr=False)

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return self._html
