"""How long a run takes from now on, by the times that its trials took.

The work left is that of the trials left, each as long as those like it took: baselines and soups, which are scored in
full, as the median of these; the others, which are raced, as the mean of the last ones. Several workers share it, so it
is divided by their number: the mean over the trials of all is the time at the rate of all.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from optuna.trial import FrozenTrial

from mergesearch.search.candidates.gradient.start import DESCENT, STEP_COST, read_descent
from mergesearch.search.candidates.plan import SearchPlan
from mergesearch.search.optimize.callbacks import RunView
from mergesearch.search.scoring.scorer import SCORING
from mergesearch.search.study import trials as t
from mergesearch.search.study.stopping import seconds_spent
from mergesearch.steps import Step

RACED = 0.5
"""The time of a raced trial, in that of one that is scored in full; it counts like one trial that was measured."""
LAST = 16
"""From so many trials their time is taken: racing gets quicker from trial to trial."""
CANDIDATES = "candidates"
"""The unit of the verdict's step."""


@dataclass(frozen=True)
class _Known:
    """The trials at the time ``at``: how many of each sort are left, and the seconds that those so far took."""

    full_left: int
    others_left: int
    full: float | None = None
    others: Sequence[float] = ()
    steps_left: int = 0
    step: float | None = None
    spent: float = 0.0
    at: float = 0.0


class TimeLeft:
    """The time that is left to a run of the plan. ``note`` is called after trials; ``seconds`` from any thread.

    ``at_most``: whether the run may end before its trials do. ``trials``: how many are finished.
    """

    def __init__(self, plan: SearchPlan) -> None:
        config, tasks = plan.problem.config, plan.problem.tasks
        self._of, search = plan.trials, config.search
        self._named = min(plan.trials, len(plan.baselines) + (plan.soups.expected_trials if plan.soups else 0))
        self._judged = len(plan.baselines) + 1
        self._test_share = sum(len(task.test) for task in tasks) / max(1, tasks.search_items)
        self._gradient = search.gradient if plan.start.gradient else None
        self._raced = RACED if search.racing and tasks.directions is None else 1.0
        self._timeout = None if config.soup else search.timeout
        self.at_most = bool(config.soup or search.patience or search.target is not None)
        self.trials = 0
        self._known = _Known(self._named, self._of - self._named)

    def note(self, view: RunView) -> None:
        """Takes the trials so far, of all workers."""
        finished = t.finished(view.study)
        named = [trial for trial in finished if t.kind_of(trial) in t.NAMED]
        others = [trial for trial in finished if t.kind_of(trial) not in t.NAMED]
        full, full_left = _times([trial for trial in named if t.items_of(trial)]), max(0, self._named - len(named))
        self.trials = len(finished)
        self._known = _Known(
            full_left,
            max(0, self._of - len(finished) - full_left),
            median(full) if full else None,
            _times(others),
            *self._descent(view),
            seconds_spent(view.study),
            time.monotonic(),
        )

    def _descent(self, view: RunView) -> tuple[int, float | None]:
        """How many steps of the descent are left, and the seconds of one."""
        if self._gradient is None or t.begun_of_kind(view.study, t.SAMPLED):
            return 0, None
        descent = read_descent(view.store.folder)
        if descent is None or not descent.losses:
            return self._gradient.steps, None
        left = 0 if descent.reason else self._gradient.steps - len(descent.losses)
        return left, descent.seconds / len(descent.losses)

    def seconds(self, steps: Sequence[Step], workers: int) -> float | None:
        """The seconds from now on, verdict included; None where nothing is measured yet.

        ``steps`` is what this process does now; ``workers`` is the number of all.
        """
        now, known = time.monotonic(), self._known
        full = known.full or _projected(steps, now)
        if full is None:
            return None
        judging = next((step for step in steps if step.unit == CANDIDATES), None)
        if judging is not None:
            return _rest_of_verdict(judging, full * self._test_share, now)
        search = max(0.0, self._work(known, steps, full, workers, now)) / workers
        if self._timeout is not None:
            search = min(search, max(0.0, self._timeout - known.spent - (now - known.at)))
        return search + self._judged * full * self._test_share

    def _work(self, known: _Known, steps: Sequence[Step], full: float, workers: int, now: float) -> float:
        """The seconds of work left, of which the workers have done a part since the last trial ended here."""
        other = (self._raced * full + sum(known.others)) / (1 + len(known.others))
        work = known.full_left * full + known.others_left * other + self._steps_work(known, steps, full, now)
        if _is_trial(steps):
            work -= min(now - steps[0].begun, full if known.full_left else other)
        if known.full is not None:
            work -= (workers - 1) * (other / 2 + now - known.at)
        return work

    def _steps_work(self, known: _Known, steps: Sequence[Step], full: float, now: float) -> float:
        if self._gradient is None or not known.steps_left:
            return 0.0
        leg = next((step for step in steps if step.what == DESCENT and step.done), None)
        each = (now - leg.begun) / leg.done if leg else known.step or STEP_COST * self._gradient.items * full
        return (known.steps_left - (leg.done if leg else 0)) * each


def _times(trials: Sequence[FrozenTrial]) -> list[float]:
    """The seconds that the last of these trials took."""
    spans = [(trial.datetime_start, trial.datetime_complete) for trial in trials[-LAST:]]
    return [(end - begin).total_seconds() for begin, end in spans if begin and end]


def _is_trial(steps: Sequence[Step]) -> bool:
    return len(steps) > 1 and steps[-1].what != DESCENT


def _projected(steps: Sequence[Step], now: float) -> float | None:
    """The seconds that the trial in work takes in full, by the items that are scored; None where there are none."""
    if not steps or steps[-1].what != SCORING or not steps[-1].done:
        return None
    scoring = steps[-1]
    return scoring.begun - steps[0].begun + (now - scoring.begun) * scoring.of / scoring.done


def _rest_of_verdict(judging: Step, each: float, now: float) -> float:
    """The seconds that are left of scoring the finalists, each of which takes about as long as those before."""
    spent = now - judging.begun
    return max(0.0, (spent / judging.done if judging.done else each) * judging.of - spent)
