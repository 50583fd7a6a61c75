"""How far a run is, in words: what the terminal and notebooks show while it goes."""

from collections.abc import Sequence

from optuna.trial import FrozenTrial

from mergesearch.search.optimize.callbacks import RunView
from mergesearch.search.report.run_log import trial_in_words
from mergesearch.search.report.screen import CELL
from mergesearch.search.study import trials as t
from mergesearch.search.study.progress import Doing, left_in_words
from mergesearch.search.verdict.finalists import search_estimate
from mergesearch.search.verdict.formatting import interval
from mergesearch.text import LINE, as_line, shown


class ProgressText:
    """What there is to say of a run, as far as it is.

    Attributes:
        done: how many trials are finished.
        of: how many the run will have; None before it has begun.
        best: the best score so far with its interval and name, and what racing saves; empty before there is one.
        left: how long the run still takes; empty where that is not known.
        lines: what each worker does now.
    """

    def __init__(self) -> None:
        self.done = 0
        self.of: int | None = None
        self.best = self.left = ""
        self.lines: Sequence[str] = ()
        self._best: tuple[int, str] = (-1, "")
        self._race_told = False

    @property
    def trials(self) -> str:
        """``trials 12/60``; empty before the run has begun."""
        return "" if self.of is None else f"trials {self.done}/{self.of}"

    def begun(self, view: RunView) -> list[str]:
        """Takes the run's beginning; gives lines for the user."""
        self.of = view.trials
        self._count(view)
        lines = [view.memory]
        if view.tasks.directions and view.races:
            lines.append("racing: off, because a candidate that is behind in one objective may be ahead in another")
        if self.done:
            lines.append(f"resuming {view.path}: {self.done} of {self.of} trials are done")
        return lines

    def trial(self, view: RunView, trial: FrozenTrial, verbose: bool = False) -> list[str]:
        """Takes a trial that has ended; gives lines for the user."""
        self._count(view)
        return [*([trial_in_words(view, trial)] if verbose else []), *self._news(view, trial)]

    def _news(self, view: RunView, trial: FrozenTrial) -> list[str]:
        if self._race_told or t.kind_of(trial) in t.NAMED or not view.scorer.race_plan:
            return []
        self._race_told = True
        return [view.scorer.race_plan.described]

    def doing(self, now: Doing, others: Sequence[Doing]) -> None:
        """Takes what this worker and the others do."""
        lines = [now.in_words, *(f"{each.worker}: {each.in_words}" for each in others)]
        self.lines = [as_line(line) for line in lines if line]
        self.left = left_in_words([now, *others])

    def _count(self, view: RunView) -> None:
        self.done = min(len(t.finished(view.study)), view.trials)
        best = t.incumbent(view.study)
        if best and best.number != self._best[0]:
            estimate = search_estimate(view.tasks, view.store, best, view.seed)
            self._best = best.number, f"best {interval(estimate)} ({shown(t.label_of(best), CELL)})"
        self.best = f"{self._best[1]}{_spent(view)}"


def failure_in_words(trial: FrozenTrial) -> tuple[str, str] | None:
    """``trial 12 failed:``, and why; None where it did not."""
    if t.REASON not in trial.user_attrs:
        return None
    return f"{shown(t.label_of(trial))} failed:", shown(trial.user_attrs[t.REASON], LINE)


def _spent(view: RunView) -> str:
    """How many trials were stopped early, and which share of their items the raced trials were scored on."""
    stopped = len(t.stopped(view.study))
    if not stopped:
        return ""
    raced = [t.items_of(trial) for trial in t.finished(view.study) if t.kind_of(trial) not in t.NAMED]
    in_full = sum(map(bool, raced)) * view.tasks.search_items
    return f"  {stopped} stopped early, {sum(raced) / in_full:.0%} of the items scored"
