"""When a search ends: after its trials, its time or its patience, or at its target.

Everything but the time follows from the study's trials alone, so that a run that is resumed ends at the same trial as a
run that was not interrupted.
"""

from bisect import bisect
from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from optuna.study import Study
from optuna.trial import FrozenTrial

from mergesearch.errors import UserError
from mergesearch.search.study import trials as t


class StoppingRules(Protocol):
    """The stopping rules in the config's ``search`` section. ``timeout`` is in seconds."""

    @property
    def trials(self) -> int: ...
    @property
    def timeout(self) -> float | None: ...
    @property
    def patience(self) -> int | None: ...
    @property
    def target(self) -> float | None: ...


def why_ended(study: Study, rules: StoppingRules, has_baselines: bool, seconds_beside: float = 0.0) -> str | None:
    """The reason, for the user, why no further trial begins; None while the search goes on.

    ``seconds_beside`` is what a descent took beside the trials. ``has_baselines`` says whether all baselines are
    scored: patience and target do not end a search before. Raises UserError for patience or target
    where the study has several objectives.
    """
    if len(t.begun(study)) - len(t.begun_of_kind(study, t.RECOVERED)) >= rules.trials:
        return f"all {rules.trials} trials are done"
    if rules.timeout is not None and t.finished(study):
        spent = seconds_spent(study) + seconds_beside
        if spent >= rules.timeout:
            return f"the timeout is reached: the trials took {spent:.0f} s of {rules.timeout:.0f} s"
    return _why_satisfied(study, rules) if has_baselines else None


def _why_satisfied(study: Study, rules: StoppingRules) -> str | None:
    if rules.patience is None and rules.target is None:
        return None
    if len(study.directions) > 1:
        raise UserError("search: patience and target need a single objective, found several")
    complete = t.completed(study)
    if not complete:
        return None
    best = t.best(complete)
    if rules.target is not None and t.score_of(best) >= rules.target:
        return f"{t.label_of(best)} reached the target: score {t.score_of(best):.4f}, target {rules.target:g}"
    finished = t.finished(study)
    after = finished[bisect(finished, best.number, key=lambda trial: trial.number) :]
    later = [trial for trial in after if t.kind_of(trial) != t.BASELINE]
    if rules.patience is not None and len(later) >= rules.patience:
        return f"the patience is used up: {len(later)} trials since the best, {t.label_of(best)}"
    return None


def seconds_spent(study: Study) -> float:
    """The seconds in which at least one trial ran, in every session of the run; pauses between sessions do not count.

    Interrupted trials do not count: it is unknown how long they ran.
    """
    return _covered(sorted(_span(trial) for trial in t.begun(study) if trial.datetime_start))


def trials_an_hour(study: Study, last: int) -> float | None:
    """The rate of the ``last`` finished trials, in the time in which at least one of them ran; None without any."""
    trials = [trial for trial in t.finished(study)[-last:] if trial.datetime_start]
    seconds = _covered(sorted(map(_span, trials)))
    return 3600 * len(trials) / seconds if seconds else None


def _span(trial: FrozenTrial) -> tuple[datetime, datetime]:
    assert trial.datetime_start is not None
    return trial.datetime_start, trial.datetime_complete or datetime.now()


def _covered(spans: Sequence[tuple[datetime, datetime]]) -> float:
    """The seconds in the union of spans, which are sorted by their beginnings."""
    total, reached = 0.0, datetime.min
    for begin, end in spans:
        total += max((end - max(begin, reached)).total_seconds(), 0.0)
        reached = max(reached, end)
    return total
