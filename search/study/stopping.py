"""What ends a search: its trials, its time, its patience, its target, or that nothing is left to ask for.

All of it follows from the study's trials, so that a run that is resumed ends where it would have ended otherwise; but
for the time, which is another one on every machine.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from optuna.study import Study
from optuna.trial import FrozenTrial

from mergesearch.errors import UserError
from mergesearch.search.study import trials as t


class Limits(Protocol):
    """What the config's ``search`` says."""

    @property
    def trials(self) -> int: ...
    @property
    def timeout(self) -> float | None: ...
    @property
    def patience(self) -> int | None: ...
    @property
    def target(self) -> float | None: ...


def why_ended(study: Study, limits: Limits, has_baselines: bool) -> str | None:
    """Why no further trial is begun, in words; None where the search goes on.

    ``has_baselines``: whether all are scored, before which neither patience nor target end anything. Raises UserError
    for patience or target where the study has several objectives, and so no one score.
    """
    if len(t.begun(study)) >= limits.trials:
        return f"all {limits.trials} trials are done"
    if limits.timeout is not None and t.finished(study) and (spent := seconds_spent(study)) >= limits.timeout:
        return f"its time is up: trials were in work for {spent:.0f} s, of {limits.timeout:.0f} s"
    return _why_satisfied(study, limits) if has_baselines else None


def _why_satisfied(study: Study, limits: Limits) -> str | None:
    if limits.patience is None and limits.target is None:
        return None
    if len(study.directions) > 1:
        raise UserError("search: patience and target are for a single score, and this search has several objectives")
    complete = t.completed(study)
    if not complete:
        return None
    best = t.best(complete)
    if limits.target is not None and t.score_of(best) >= limits.target:
        return f"{t.label_of(best)} reached the target: {t.score_of(best):.4f}, of {limits.target:g}"
    later = _beside_baselines_after(study, best)
    if limits.patience is not None and later >= limits.patience:
        return f"its patience is at an end: {later} trials without a better one than {t.label_of(best)}"
    return None


def _beside_baselines_after(study: Study, best: FrozenTrial) -> int:
    return sum(t.kind_of(trial) != t.BASELINE and trial.number > best.number for trial in t.finished(study))


def seconds_spent(study: Study) -> float:
    """How long trials were in work, in every session; several at the same time count once, a pause does not.

    Of an interrupted trial nobody knows how long it was in work: it counts for nothing.
    """
    spans = [_span(trial) for trial in t.begun(study) if trial.datetime_start]
    return _covered(sorted(spans))


def _span(trial: FrozenTrial) -> tuple[datetime, datetime]:
    assert trial.datetime_start is not None
    return trial.datetime_start, trial.datetime_complete or datetime.now()


def _covered(spans: Sequence[tuple[datetime, datetime]]) -> float:
    """Seconds in the union of spans, which are in the order of their beginnings."""
    total, reached = 0.0, datetime.min
    for begin, end in spans:
        total += max((end - max(begin, reached)).total_seconds(), 0.0)
        reached = max(reached, end)
    return total
