"""What a run looks like in a terminal while it goes, and what it would do."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from optuna.trial import FrozenTrial
from rich.console import Console
from rich.text import Text

from mergesearch.search.candidates.plan import SearchPlan
from mergesearch.search.optimize.callbacks import RunView, Watcher
from mergesearch.search.report.check_page import (
    print_cost,
    print_levels,
    print_samplers,
    print_signal,
    print_space,
    print_start,
    print_tasks,
)
from mergesearch.search.report.progress_bar import ProgressBar, progress_bar
from mergesearch.search.report.run_log import trial_in_words
from mergesearch.search.report.screen import CELL
from mergesearch.search.samplers.schedule import plan as plan_samplers
from mergesearch.search.scoring.cost import Cost
from mergesearch.search.study import trials as t
from mergesearch.search.study.progress import Doing, left_in_words
from mergesearch.search.verdict.finalists import search_estimate
from mergesearch.search.verdict.formatting import interval
from mergesearch.text import LINE, shown


@contextmanager
def shown_progress(screen: Console, verbose: bool = False) -> Iterator[Watcher]:
    """A watcher that shows trials, best score with its interval, time left, and below what each worker does.

    Where the screen is no terminal, it prints plain lines now and then. ``verbose`` shows a line for each trial, too.
    """
    with progress_bar(screen) as bar:
        yield _Shown(screen, bar, verbose).watcher()


class _Shown:
    def __init__(self, screen: Console, bar: ProgressBar, verbose: bool) -> None:
        self._screen, self._bar, self._verbose = screen, bar, verbose
        self._best = -1
        self._text = ""
        self._race_told = False

    def watcher(self) -> Watcher:
        return Watcher(stage=self._stage, begun=self._begin, trial=self._trial, doing=self._doing)

    def _stage(self, text: str) -> None:
        self._screen.print(text, style="dim")

    def _begin(self, view: RunView) -> None:
        self._stage(view.memory)
        if view.tasks.directions and view.races:
            self._stage("racing: off, because a candidate that is behind in one objective may be ahead in another")
        done, total = len(t.finished(view.study)), view.trials
        if done:
            self._stage(f"resuming {view.path}: {done} of {total} trials are done")
        self._bar.trials(done, total)

    def _trial(self, view: RunView, trial: FrozenTrial) -> None:
        if self._verbose:
            self._stage(trial_in_words(view, trial))
        elif t.REASON in trial.user_attrs:
            reason = shown(trial.user_attrs[t.REASON], LINE)
            self._screen.print(Text.assemble((f"{shown(t.label_of(trial))} failed:", "red"), f" {reason}"))
        self._note_race(view, trial)
        self._note_best(view)
        done = len(t.finished(view.study))
        self._bar.trials(done, view.trials, f"{self._text}{_spent(view)}", is_end=done == view.trials)

    def _doing(self, now: Doing, others: Sequence[Doing]) -> None:
        """Shows what is being done; from another thread."""
        lines = [now.in_words, *(f"{each.worker}: {each.in_words}" for each in others)]
        self._bar.doing(lines, left_in_words([now, *others]))

    def _note_race(self, view: RunView, trial: FrozenTrial) -> None:
        if not self._race_told and t.kind_of(trial) not in t.NAMED and view.scorer.race_plan:
            self._race_told = True
            self._stage(view.scorer.race_plan.described)

    def _note_best(self, view: RunView) -> None:
        best = t.incumbent(view.study)
        if best and best.number != self._best:
            self._best = best.number
            estimate = search_estimate(view.tasks, view.store, best, view.seed)
            self._text = f"best {interval(estimate)} ({shown(t.label_of(best), CELL)})"


def _spent(view: RunView) -> str:
    """How many trials were stopped early, and which share of their items the raced trials were scored on."""
    stopped = len(t.stopped(view.study))
    if not stopped:
        return ""
    raced = [t.items_of(trial) for trial in t.finished(view.study) if t.kind_of(trial) not in t.NAMED]
    in_full = sum(map(bool, raced)) * view.tasks.search_items
    return f"  {stopped} stopped early, {sum(raced) / in_full:.0%} of the items scored"


def print_plan(screen: Console, plan: SearchPlan, cost: Cost) -> None:
    """What a run of the plan would do, and what it would cost."""
    problem, soups = plan.problem, plan.soups
    if soups:
        kinds, models = ", ".join(soups.kinds), len(soups.models)
        screen.print(f"soups: {kinds} of {models} models; about {soups.expected_trials} trials")
    if problem.config.soup is None:
        _print_search(screen, plan)
    print_tasks(screen, problem.tasks)
    print_signal(screen, plan)
    for constraint in problem.tasks.constraints:
        screen.print(f"constraint: {constraint}")
    print_cost(screen, plan, cost)


def _print_search(screen: Console, plan: SearchPlan) -> None:
    problem, search = plan.problem, plan.problem.config.search
    screen.print(f"methods: {', '.join(method.name for method in problem.space.methods)}")
    schedule = plan_samplers(problem.space, search, several=problem.tasks.directions is not None)
    screen.print(f"sampler: {schedule}; {search.trials} trials; seed {search.seed}")
    print_levels(screen, plan)
    print_start(screen, plan)
    print_space(screen, problem.space)
    print_samplers(screen, problem.space)
