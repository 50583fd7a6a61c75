"""What a run looks like in a terminal while it goes, and what it would do."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from optuna.trial import FrozenTrial
from rich.console import Console
from rich.text import Text

from mergesearch.say import silent
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
from mergesearch.search.report.progress_text import ProgressText, failure_in_words
from mergesearch.search.report.recovery_plan import recovery_lines
from mergesearch.search.samplers.schedule import plan as plan_samplers
from mergesearch.search.scoring.cost import Cost
from mergesearch.search.study.progress import Doing


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
        self._text = ProgressText()

    def watcher(self) -> Watcher:
        detail = self._stage if self._verbose else silent
        return Watcher(self._stage, detail, self._begin, self._trial, doing=self._doing)

    def _stage(self, text: str) -> None:
        self._screen.print(text, style="dim")

    def _begin(self, view: RunView) -> None:
        for line in self._text.begun(view):
            self._stage(line)
        self._bar.trials(self._text.done, view.trials)

    def _trial(self, view: RunView, trial: FrozenTrial) -> None:
        failure = failure_in_words(trial)
        if failure and not self._verbose:
            self._screen.print(Text.assemble((failure[0], "red"), f" {failure[1]}"))
        for line in self._text.trial(view, trial, self._verbose):
            self._stage(line)
        done = self._text.done
        self._bar.trials(done, view.trials, self._text.best, is_end=done == view.trials)

    def _doing(self, now: Doing, others: Sequence[Doing]) -> None:
        """Shows what is being done; from another thread."""
        self._text.doing(now, others)
        self._bar.doing(self._text.lines, self._text.left)


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
    for line in recovery_lines(problem):
        screen.print(line)
    print_cost(screen, plan, cost)


def _print_search(screen: Console, plan: SearchPlan) -> None:
    problem, search = plan.problem, plan.problem.config.search
    if problem.vocabulary:
        screen.print(problem.vocabulary)
    screen.print(f"methods: {', '.join(method.name for method in problem.space.methods)}")
    schedule = plan_samplers(problem.space, search, several=problem.tasks.directions is not None)
    screen.print(f"sampler: {schedule}; {search.trials} trials; seed {search.seed}")
    print_levels(screen, plan)
    print_start(screen, plan)
    print_space(screen, problem.space)
    print_samplers(screen, problem.space)
