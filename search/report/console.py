"""What a run looks like in a terminal: progress while it goes, tables when it ends."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any

from optuna.trial import FrozenTrial
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
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
from mergesearch.search.samplers.schedule import plan as plan_samplers
from mergesearch.search.scoring.cost import Cost
from mergesearch.search.study import trials as t
from mergesearch.search.verdict.finalists import search_estimate
from mergesearch.search.verdict.formatting import interval
from mergesearch.search.verdict.front import Front
from mergesearch.search.verdict.result import SIDES, CandidateRow, Verdict
from mergesearch.search.verdict.wording import (
    comparisons_in_words,
    evidence_in_words,
    front_in_words,
    graded_in_words,
    left_out_in_words,
    limits_in_words,
    looks_in_words,
    marked_name,
    optimism_in_words,
    shown_baselines,
)
from mergesearch.text import LINE, as_encoded, shown

WIDTH = 140
"""Columns where output is not a terminal."""
CELL = 80
"""The most characters of a name in a table."""
LINE_SECONDS = 10.0
"""How often a run without a terminal prints where it is."""


class _Screen(Console):
    """A console that shows text as it is: no markup, no emoji codes, no terminal escapes in it."""

    def render_str(self, text: str, **options: Any) -> Text:
        """See ``Console.render_str``; every string that is printed or stands in a table comes through here."""
        return super().render_str(as_encoded(shown(text), self.encoding), **options)

    def on_broken_pipe(self) -> None:
        """See ``Console.on_broken_pipe``: a run goes on if nobody reads what it prints."""
        self.quiet = True
        with suppress(OSError, ValueError):  # it is no file
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


def console() -> Console:
    """Standard output; wide enough for the tables where it is not a terminal."""
    return _Screen(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else WIDTH)


@contextmanager
def shown_progress(screen: Console) -> Iterator[Watcher]:
    """A watcher that shows a bar with trials, best score with its interval, and time left."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[best]}", markup=False),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=screen,
        disable=not screen.is_terminal,
    ) as progress:
        yield _Bar(screen, progress).watcher()


class _Bar:
    def __init__(self, screen: Console, progress: Progress) -> None:
        self._screen = screen
        self._progress = progress
        self._task = progress.add_task("trials", total=None, best="")
        self._best = -1
        self._text = ""
        self._last_line = monotonic()
        self._race_told = False

    def watcher(self) -> Watcher:
        return Watcher(stage=self._stage, begun=self._begun, trial=self._trial)

    def _stage(self, text: str) -> None:
        self._screen.print(text, style="dim")

    def _begun(self, view: RunView) -> None:
        self._stage(view.memory)
        if view.tasks.directions and view.races:
            self._stage("racing: off, because a candidate that is behind in one objective may be ahead in another")
        done, total = len(t.finished(view.study)), view.trials
        if done:
            self._stage(f"resuming {view.path}: {done} of {total} trials are done")
        self._progress.update(self._task, total=total, completed=min(done, total))

    def _trial(self, view: RunView, trial: FrozenTrial) -> None:
        if t.REASON in trial.user_attrs:
            reason = shown(trial.user_attrs[t.REASON], LINE)
            self._screen.print(Text.assemble((f"{shown(t.label_of(trial))} failed:", "red"), f" {reason}"))
        self._note_race(view, trial)
        self._note_best(view)
        done = len(t.finished(view.study))
        self._progress.update(self._task, completed=done, best=f"{self._text}{_spent(view)}")
        is_due = done == view.trials or monotonic() - self._last_line > LINE_SECONDS
        if not self._screen.is_terminal and is_due:
            self._last_line = monotonic()
            self._screen.print(f"trials {done}/{view.trials} {self._text}{_spent(view)}")

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


def print_verdict(screen: Console, verdict: Verdict) -> None:
    """The table of candidates, the paired difference and the headline."""
    table = Table(title="Candidates, with 95 % intervals; tasks on the test items", title_justify="left")
    table.add_column("")
    for side in SIDES:
        table.add_column(side, justify="right", no_wrap=True)
    for task, metric in verdict.metrics.items():
        table.add_column(f"{shown(task, CELL)}\n{shown(metric, CELL)}", justify="right", no_wrap=True)
    for row in shown_baselines(verdict):
        table.add_row(*_cells(row, verdict))
    table.add_section()
    table.add_row(*_cells(verdict.winner, verdict), style="bold")
    if verdict.ensemble:
        table.add_section()
        table.add_row(*_cells(verdict.ensemble, verdict), style="dim")
    screen.print(table)
    screen.print(verdict.sentence, style="bold")
    if verdict.front:
        _print_front(screen, verdict.front, verdict.winner.trial)
    notes = (
        left_out_in_words,
        front_in_words,
        limits_in_words,
        comparisons_in_words,
        evidence_in_words,
        graded_in_words,
        optimism_in_words,
    )
    for note in (words(verdict) for words in notes):
        if note:
            screen.print(note)
    screen.print(looks_in_words(verdict.test_looks - 1))


def _print_front(screen: Console, front: Front, winner: int) -> None:
    """The front's members: objectives on the test items, and differences from the best baseline."""
    table = Table(title="Pareto front of the search items, scored on the test items", title_justify="left")
    table.add_column("")
    tested = [task for task in front.directions if any(member.standings[task].test for member in front.members)]
    for task in tested:
        for head in (f"{task}\n{front.directions[task]}", "− best baseline"):
            table.add_column(head, justify="right", no_wrap=True)
    for member in front.members:
        marks = [mark for mark, number in (("winner", winner), ("knee", front.knee)) if number == member.trial]
        standings = [member.standings[task] for task in tested]
        cells = [cell for s in standings for cell in (interval(s.test), interval(s.difference, "+"))]
        name = f"{member.name} ({', '.join([member.method, *marks])})"
        table.add_row(name, *cells, style="bold" if member.trial == winner else "")
    screen.print(table)


def _cells(row: CandidateRow, verdict: Verdict) -> list[str]:
    tasks = (f"{values['test']:.3f}" if "test" in values else "" for values in row.tasks.values())
    return [marked_name(verdict, row), interval(row.search), interval(row.test), *tasks]


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
