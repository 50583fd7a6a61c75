"""The finalists that can be judged: those that could be scored, on the tasks that could be scored."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from optuna.trial import FrozenTrial

from mergesearch.errors import UserError
from mergesearch.search.optimize.time_left import CANDIDATES
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.problem.tasks import Task
from mergesearch.search.signal.signal import Signal
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_store import RunStore
from mergesearch.search.verdict.finalists import (
    Failures,
    FinalScores,
    Sides,
    finalists,
    front_trials,
    recovered_trials,
    soup_trials,
)
from mergesearch.search.verdict.recovered import failure_of
from mergesearch.search.verdict.result import LeftOut
from mergesearch.steps import step, units

FailuresByTrial = Mapping[int, Failures]
"""For each trial what failed."""


@dataclass(frozen=True)
class ScoredFinalists:
    """Winner, baselines, soups and front with their scores, on ``tasks``; ``left_out``: what a verdict is held without.

    ``sides`` are by trial; ``recovered`` is the winner after recovery.
    """

    winner: FrozenTrial
    baselines: list[FrozenTrial]
    soups: list[FrozenTrial]
    front: list[FrozenTrial]
    recovered: list[FrozenTrial]
    sides: dict[int, Sides]
    tasks: TaskSet
    left_out: list[LeftOut]


def scored_finalists(tasks: TaskSet, store: RunStore, signal: Signal, scores: FinalScores) -> ScoredFinalists:
    """Scores the finalists on every item.

    A task that most finalists cannot be scored on is left out, and so is a candidate that cannot be scored on one of
    the other tasks. Where that is the winner on the search items, the next best candidate takes its place. Raises
    UserError where no task or no baseline is left.
    """
    sides: dict[int, Sides] = {}
    failures: dict[int, dict[str, str]] = {}
    while True:
        excluded = {number for number, failed in failures.items() if failed.keys() - _lost_tasks(failures)}
        winner, baselines, soups, front = _chosen(store, signal, excluded, failures)
        recovered = [trial for trial in recovered_trials(store, winner) if trial.number not in excluded]
        every = (*baselines, *soups, *front, winner, *recovered)
        new = {each.number: each for each in every if each.number not in failures}
        if not new:
            break
        with step("verdict", len(new), CANDIDATES):
            for number, trial in new.items():
                with units(1):
                    sides[number], failures[number] = scores.sides(trial)
    lost = _lost_tasks(failures)
    left = _without(tasks, lost, failures)
    without = [*_left_out(store, lost, excluded, failures), *_not_recovered(store, winner)]
    return ScoredFinalists(winner, baselines, soups, front, recovered, sides, left, without)


def _lost_tasks(failures: FailuresByTrial) -> set[str]:
    """The tasks that more than half of the finalists could not be scored on."""
    named = {task for failed in failures.values() for task in failed}
    return {task for task in named if 2 * sum(task in failed for failed in failures.values()) > len(failures)}


def _chosen(
    store: RunStore, signal: Signal, excluded: set[int], failures: FailuresByTrial
) -> tuple[FrozenTrial, list[FrozenTrial], list[FrozenTrial], list[FrozenTrial]]:
    """The winner, the baselines, the soups and the front, without the excluded trials."""
    try:
        winner, baselines = finalists(store, signal, excluded)
    except UserError as error:
        reason = next((reason for number in excluded for reason in failures[number].values()), "")
        raise UserError(f"{error}{f'; the first failure on the test items: {reason}' if reason else ''}") from None
    soups = [trial for trial in soup_trials(store) if trial.number not in excluded]
    return winner, baselines, soups, [trial for trial in front_trials(store) if trial.number not in excluded]


def _without(tasks: TaskSet, lost: set[str], failures: FailuresByTrial) -> TaskSet:
    """The tasks; those that are lost have no items that only a verdict looks at."""
    searched = {task.name for task in tasks.searched}

    def left(task: Task) -> Task:
        return replace(task, test=(), search=task.search if task.name in searched else ())

    kept = replace(tasks, all=[left(task) if task.name in lost else task for task in tasks])
    if lost and not kept.counted("test"):
        name = sorted(lost)[0]
        reason = next(failed[name] for failed in failures.values() if name in failed)
        raise UserError(
            f"no verdict: the test items of task {name!r} could not be scored: {reason}; all trials are kept, and the "
            "same command tries the verdict again"
        )
    return kept


def _not_recovered(store: RunStore, winner: FrozenTrial) -> list[LeftOut]:
    reason = failure_of(store.study, winner)
    return [LeftOut(t.recovered_name(winner), reason)] if reason else []


def _left_out(store: RunStore, lost: set[str], excluded: set[int], failures: FailuresByTrial) -> list[LeftOut]:
    by_number = {trial.number: trial for trial in t.finished(store.study)}
    tasks = [
        LeftOut(f"the test items of task {name!r}", next(each[name] for each in failures.values() if name in each))
        for name in sorted(lost)
    ]
    return tasks + [
        LeftOut(t.label_of(by_number[number]), next(why for task, why in failures[number].items() if task not in lost))
        for number in sorted(excluded)
    ]
