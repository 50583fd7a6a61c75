"""Repairs a run whose files of scores were damaged, as by a loss of power: what is lost is scored again."""

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from mergesearch.errors import DamagedFileError, UserError, in_words
from mergesearch.say import Say
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.scoring.scorer import Scorer
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_store import RunStore

SAME = 1e-6
"""The most by which the value of saved scores may differ, relatively, on another machine or in another version."""


def repair_scores(store: RunStore, tasks: TaskSet, scorer: Scorer, say: Say) -> None:
    """Scores the completed trials again whose scores are missing or damaged, and says which.

    Other damaged files of scores are removed: they are scored again when they are needed. To be called under the run's
    lock. Raises UserError where a candidate can no longer be scored.
    """
    completed = [*t.completed(store.study), *t.of_kind(store.study, t.RECOVERED)]
    completed = [trial for trial in completed if trial.state == TrialState.COMPLETE]
    problems = {trial.number: _problem(store, tasks, trial) for trial in completed}
    lost = [number for number, problem in problems.items() if problem]
    whole = {t.scores_name(number) for number in problems if number not in lost}
    for name in store.folder.scores_names():
        if name not in whole:
            _remove_damaged(store, name, say)
    for number in lost:
        say(f"{problems[number]}: trial {number} is scored again")
        store.folder.remove_scores(t.scores_name(number))
    trials = [trial for trial in completed if trial.number in lost]
    for trial in sorted(trials, key=lambda trial: (t.kind_of(trial) not in t.NAMED, trial.number)):
        _score_again(store, scorer, trial, say)  # baselines first: races are planned from their scores


def _problem(store: RunStore, tasks: TaskSet, trial: FrozenTrial) -> str | None:
    """What is wrong with the scores of a completed trial; None where they are whole."""
    try:
        scores = store.scores_of(trial)
    except DamagedFileError as error:
        return error.fact
    file, recorded = store.folder.scores_file(t.scores_name(trial.number)), trial.user_attrs[t.VALUES]
    expected = {task.name: len(task.search) for task in tasks.searched}
    found = {name: len(values) for name, values in scores.items()}
    if found != expected:
        return f"{file}: has scores of {found} items, expected {expected}"
    values = tasks.values("search", scores)
    if np.allclose([*values.values()], [recorded[name] for name in values], SAME, SAME, equal_nan=True):
        return None
    return f"{file}: has scores that give {values}, expected {recorded}"


def _remove_damaged(store: RunStore, name: str, say: Say) -> None:
    try:
        store.folder.load_scores(name)
    except DamagedFileError as error:
        say(f"{error.fact}: it is removed, and scored again when it is needed")
        store.folder.remove_scores(name)


def _score_again(store: RunStore, scorer: Scorer, trial: FrozenTrial, say: Say) -> None:
    try:
        result = scorer.rescore(trial)
    except Exception as error:
        raise UserError(
            f"{store.folder.path}: the scores of trial {trial.number} are lost, and its candidate cannot be scored "
            f"again: {in_words(error)}"
        ) from error
    store.save_marks(trial.number, result.scores, result.items, result.margins)
    if result.values != trial.user_attrs[t.VALUES]:
        say(f"trial {trial.number} is worth {result.values} now, and was {trial.user_attrs[t.VALUES]}")
