"""The finalists of a run: the winner on the search items, the baselines, the soups and the front, with their scores."""

from collections.abc import Collection, Sequence

import torch
from optuna.trial import FrozenTrial, TrialState

from mergesearch.errors import UserError, in_words
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.problem.tasks import Margins, Scores, Task
from mergesearch.search.scoring.scorer import Scorer
from mergesearch.search.signal.signal import Signal
from mergesearch.search.statistics import Estimate, estimated, value_of
from mergesearch.search.study import trials as t
from mergesearch.search.study.answers import save_answers
from mergesearch.search.study.failures import stopped_by
from mergesearch.search.study.pareto import front_of, is_pareto
from mergesearch.search.study.run_store import RunStore
from mergesearch.search.verdict.result import SIDES
from mergesearch.seeds import derive
from mergesearch.steps import step

Sides = dict[str, Scores]
"""A candidate's scores on the search items and on the test items."""
Failures = dict[str, str]
"""The tasks that a candidate could not be scored on, with the reasons."""


def finalists(store: RunStore, signal: Signal, without: Collection[int] = ()) -> tuple[FrozenTrial, list[FrozenTrial]]:
    """The winner on the search items, and the baselines; a soup that was a step to another is neither.

    The winner is the best that the search found, no baseline nor the same model as one. It is the best by the signal,
    which tells more of a candidate than its scores: the one with the highest score is mostly the luckiest. With several
    objectives it has the best weighted sum of the scores. Where no candidate was scored in full, because all were
    behind the best baseline, it is the best of those that were stopped; where there is none, the best baseline.

    ``without``: trials that are neither, because they could not be scored on the test items. Raises UserError where no
    baseline could be scored.
    """
    trials = [trial for trial in t.contenders(store.study) if trial.number not in without]
    baselines = [trial for trial in trials if t.kind_of(trial) == t.BASELINE]
    if not baselines:
        raise UserError("no baseline could be scored, so there is nothing to compare the winner with")
    known = {trial.user_attrs[t.PHENOTYPE] for trial in baselines}
    stopped = [trial for trial in t.stopped(store.study) if trial.number not in without]
    if found := [trial for trial in trials if trial.user_attrs[t.PHENOTYPE] not in known]:
        return _best(store, signal, found), baselines
    if found := [trial for trial in stopped if trial.user_attrs[t.PHENOTYPE] not in known]:
        return t.best(found), baselines
    return _best(store, signal, baselines), baselines


def _best(store: RunStore, signal: Signal, trials: Sequence[FrozenTrial]) -> FrozenTrial:
    winner = None if is_pareto(store.study) else signal.best(trials)
    return winner or t.best(trials)


def soup_trials(store: RunStore) -> list[FrozenTrial]:
    """The soups that the config asks for."""
    return [trial for trial in t.completed(store.study) if t.kind_of(trial) == t.SOUP]


def recovered_trials(store: RunStore, winner: FrozenTrial) -> list[FrozenTrial]:
    """The winner after recovery; empty where it is not recovered, or that failed."""
    found = [trial for trial in t.of_kind(store.study, t.RECOVERED) if trial.state == TrialState.COMPLETE]
    return [trial for trial in found if trial.user_attrs[t.NAME] == t.recovered_name(winner)]


def front_trials(store: RunStore) -> list[FrozenTrial]:
    """The Pareto front on the search items; empty with a single objective."""
    return front_of(store.study) if is_pareto(store.study) else []


def decision(store: RunStore, tasks: TaskSet, signal: Signal) -> dict[str, object]:
    """What a verdict decides on: the winner and the other finalists, by what they compute, and the test items."""
    winner, baselines = finalists(store, signal)
    trials = (*baselines, *soup_trials(store), *front_trials(store), winner, *recovered_trials(store, winner))
    return {
        "winner": winner.user_attrs[t.PHENOTYPE],
        "finalists": sorted({trial.user_attrs[t.PHENOTYPE] for trial in trials}),
        "items": tasks.test_digest,
    }


class FinalScores:
    """Scores of finalists on the test items, scored once in a run: what is saved is read again.

    A verdict that was killed goes on from there.
    """

    def __init__(self, tasks: TaskSet, store: RunStore, scorer: Scorer) -> None:
        self._tasks, self._store, self._scorer = tasks, store, scorer
        self._by_phenotype: dict[str, tuple[Sides, Failures]] = {}

    def sides(self, trial: FrozenTrial) -> tuple[Sides, Failures]:
        """A trial's scores on every item, and what failed; candidates that are identical are scored once."""
        phenotype = trial.user_attrs[t.PHENOTYPE]
        if phenotype not in self._by_phenotype:
            self._by_phenotype[phenotype] = self._both(trial)
        return self._by_phenotype[phenotype]

    def test_scores(self, recipe: Recipe) -> Scores:
        """The test scores of a recipe, which is not necessarily a finalist's, of the tasks that did not fail."""
        phenotype = self._scorer.phenotype(recipe)
        if phenotype in self._by_phenotype:
            return self._by_phenotype[phenotype][0]["test"]
        return self._saved(t.side_name("test", phenotype), "test", self._tasks.all, recipe)[0]

    def test_marks(self, trial: FrozenTrial) -> tuple[Scores, Margins] | None:
        """The saved test scores and margins of a trial that ``sides`` was called for; None where one has failed."""
        name = t.side_name("test", trial.user_attrs[t.PHENOTYPE])
        folder = self._store.folder
        return folder.load_scores_and_margins(name, self._tasks.items("test")) if folder.has_scores(name) else None

    def _both(self, trial: FrozenTrial) -> tuple[Sides, Failures]:
        """Search scores as they were recorded, and those of tasks that the search did not look at.

        The search has no scores of a trial that was stopped.
        """
        recipe, phenotype = t.recipe_of(trial), trial.user_attrs[t.PHENOTYPE]
        with step(t.label_of(trial)):
            test, failures = self._saved(t.side_name("test", phenotype), "test", self._tasks.all, recipe)
            recorded = {} if trial.state == TrialState.PRUNED else self._store.scores_of(trial)
            others = [task for task in self._tasks if task.search and task.name not in recorded]
            name = t.side_name("search", phenotype)
            unseen, more = self._saved(name, "search", others, recipe) if others else ({}, {})
        return {"search": {**recorded, **unseen}, "test": test}, {**failures, **more}

    def _saved(self, name: str, side: str, tasks: Sequence[Task], recipe: Recipe) -> tuple[Scores, Failures]:
        folder = self._store.folder
        if folder.has_scores(name):
            return folder.load_scores(name, self._tasks.items(side)), {}
        scores, margins, failures = self._scored(side, tasks, recipe)
        if failures:
            return scores, failures
        if side == "test":  # before the scores, so that where these are saved the answers are, too
            save_answers(folder.path, name, self._tasks.answers(side, tasks), self._tasks.items(side))
        folder.save_scores(name, scores, self._tasks.items(side), margins)
        return folder.load_scores(name, self._tasks.items(side)), {}

    def _scored(self, side: str, tasks: Sequence[Task], recipe: Recipe) -> tuple[Scores, Margins, Failures]:
        """The scores and margins of the tasks; where one of them fails, each is scored by itself.

        Raises what concerns the run.
        """
        try:
            return (*self._scorer.score_side(recipe, side, tasks), {})
        except Exception as error:
            if stopped_by(error, self._store.folder.path):
                raise
            if len(tasks) == 1:
                return {}, {}, {tasks[0].name: in_words(error)}
        parts = [self._scored(side, [task], recipe) for task in tasks if task.items(side)]
        scores = {name: values for part, *_ in parts for name, values in part.items()}
        margins = {name: values for _, part, _ in parts for name, values in part.items()}
        return scores, margins, {name: why for *_, failed in parts for name, why in failed.items()}


def search_estimate(tasks: TaskSet, store: RunStore, trial: FrozenTrial, seed: int) -> Estimate:
    """A completed trial's objective on the search items, with its interval; ``seed`` is the run's."""
    return estimate(tasks, "search", store.scores_of(trial), seed)


def estimate(tasks: TaskSet, side: str, scores: Scores, seed: int) -> Estimate:
    """The objective of one side's scores, with its interval; equal scores have equal ones. ``seed`` is the run's."""
    value = value_of(tasks.strata(side, scores), tasks.objective(side).combine)
    return estimated(value, derive(seed, "sign flips"))


def task_values(task: Task, sides: Sides) -> dict[str, float]:
    """A task's metric on each side that has items, and on all items; empty where there are none."""
    present = [side for side in SIDES if task.items(side)]
    if not present:
        return {}
    values = {side: task.value(side, sides[side][task.name]) for side in present}
    items = [item for side in present for item in task.items(side)]
    scores = torch.cat([sides[side][task.name] for side in present])
    return {**values, "all": task.evaluator.value(items, scores)}
