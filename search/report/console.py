"""What a run looks like in a terminal while it goes, and what it would do."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic

from optuna.trial import FrozenTrial
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Column
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
from mergesearch.search.report.run_log import trial_in_words
from mergesearch.search.report.screen import CELL
from mergesearch.search.samplers.schedule import plan as plan_samplers
from mergesearch.search.scoring.cost import Cost
from mergesearch.search.study import trials as t
from mergesearch.search.study.progress import Doing, left_in_words
from mergesearch.search.verdict.finalists import search_estimate
from mergesearch.search.verdict.formatting import interval
from mergesearch.text import LINE, as_line, shown

NARROW = 100
"""Columns up to which the bar is short, for what stands beside it."""
LINE_SECONDS, LINE_SHARE, MOST_SECONDS = 10.0, 0.1, 300.0
"""How often a run without a terminal prints where it is: at first, then at this share of its time, and at least."""


@contextmanager
def shown_progress(screen: Console, verbose: bool = False) -> Iterator[Watcher]:
    """A watcher that shows trials, best score with its interval, time left, and below what each worker does.

    Where the screen is no terminal, it prints plain lines now and then. ``verbose`` shows a line for each trial, too.
    """
    spinner = "dots" if screen.encoding.startswith("utf") else "line"
    with _Bars(
        SpinnerColumn(spinner),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24 if screen.width > NARROW else 8),
        MofNCompleteColumn(),
        TextColumn("{task.fields[best]}", markup=False, table_column=Column(overflow="fold", ratio=1)),
        TextColumn("{task.fields[left]}", markup=False, table_column=Column(no_wrap=True)),
        console=screen,
        disable=not screen.is_terminal,
    ) as progress:
        yield _Bar(screen, progress, verbose).watcher()


class _Bars(Progress):
    """Bars, and below them lines of text."""

    lines: Sequence[str] = ()

    def get_renderables(self) -> Iterator[RenderableType]:
        """See ``Progress.get_renderables``."""
        yield from super().get_renderables()
        yield from (self.console.render_str(f"  {line}", style="dim", overflow="fold") for line in self.lines)


class _Bar:
    def __init__(self, screen: Console, progress: _Bars, verbose: bool) -> None:
        self._screen = screen
        self._verbose = verbose
        self._progress = progress
        self._task = progress.add_task("trials", total=None, best="", left="")
        self._best = -1
        self._text = ""
        self._trials = ""
        self._begun = self._last_line = monotonic()
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
        self._progress.update(self._task, total=total, completed=min(done, total))
        self._trials = f"trials {done}/{total}"

    def _trial(self, view: RunView, trial: FrozenTrial) -> None:
        if self._verbose:
            self._stage(trial_in_words(view, trial))
        elif t.REASON in trial.user_attrs:
            reason = shown(trial.user_attrs[t.REASON], LINE)
            self._screen.print(Text.assemble((f"{shown(t.label_of(trial))} failed:", "red"), f" {reason}"))
        self._note_race(view, trial)
        self._note_best(view)
        done = len(t.finished(view.study))
        self._trials = f"trials {done}/{view.trials} {self._text}{_spent(view)}"
        self._progress.update(self._task, completed=done, best=f"{self._text}{_spent(view)}")
        self._print_line([], is_due=done == view.trials)

    def _doing(self, now: Doing, others: Sequence[Doing]) -> None:
        """Shows what is being done; from another thread."""
        lines = [now.in_words, *(f"{each.worker}: {each.in_words}" for each in others)]
        self._progress.lines = [as_line(line) for line in lines if line]
        self._progress.update(self._task, left=left_in_words([now, *others]))
        self._print_line([left_in_words([now, *others]), *lines])

    def _print_line(self, more: Sequence[str], is_due: bool = False) -> None:
        """Where the screen is no terminal, prints where the run is, unless it has just done so."""
        now = monotonic()
        wait = min(max(LINE_SECONDS, LINE_SHARE * (now - self._begun)), MOST_SECONDS)
        if self._screen.is_terminal or not (is_due or now - self._last_line > wait):
            return
        self._last_line = now
        self._screen.print(as_line("; ".join(text for text in (self._trials, *more) if text)), soft_wrap=True)

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
