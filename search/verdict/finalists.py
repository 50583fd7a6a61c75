"""The finalists of a run: the winner on the search items, the baselines, the soups and the front, with their scores."""

from collections.abc import Sequence

import torch
from optuna.trial import FrozenTrial

from mergesearch.errors import UserError
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.problem.tasks import Scores, Task
from mergesearch.search.scoring.scorer import Scorer
from mergesearch.search.statistics import Estimate, bootstrap
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_store import RunStore
from mergesearch.search.verdict.result import SIDES
from mergesearch.seeds import derive

Sides = dict[str, Scores]
"""A candidate's scores on the search items and on the test items."""


def finalists(store: RunStore) -> tuple[FrozenTrial, list[FrozenTrial]]:
    """The winner on the search items, and the baselines; a soup that was a step to another is neither.

    Raises UserError where no baseline could be scored.
    """
    trials = t.contenders(store.study)
    baselines = [trial for trial in trials if t.kind_of(trial) == t.BASELINE]
    if not baselines:
        raise UserError("no baseline could be scored, so there is nothing to compare the winner with")
    return t.best(trials), baselines


class FinalScores:
    """Scores of finalists on the test items, scored once in a run: what is saved is read again.

    A verdict that was killed goes on from there.
    """

    def __init__(self, tasks: TaskSet, store: RunStore, scorer: Scorer) -> None:
        self._tasks, self._store, self._scorer = tasks, store, scorer
        self._by_phenotype: dict[str, Sides] = {}

    def sides(self, trial: FrozenTrial) -> Sides:
        """A trial's scores on every item; candidates that are identical are scored once."""
        phenotype = trial.user_attrs[t.PHENOTYPE]
        if phenotype not in self._by_phenotype:
            self._by_phenotype[phenotype] = self._both(trial)
        return self._by_phenotype[phenotype]

    def test_scores(self, recipe: Recipe) -> Scores:
        """The test scores of a recipe, which is not necessarily a finalist's."""
        phenotype = self._scorer.phenotype(recipe)
        if phenotype in self._by_phenotype:
            return self._by_phenotype[phenotype]["test"]
        return self._saved(f"test-{phenotype}", "test", self._tasks.all, recipe)

    def _both(self, trial: FrozenTrial) -> Sides:
        """Search scores as they were recorded, and those of tasks that the search did not look at."""
        recipe, name = t.recipe_of(trial), f"{trial.number:06d}"
        test = self._saved(f"test-{name}", "test", self._tasks.all, recipe)
        searched = {task.name for task in self._tasks.searched}
        others = [task for task in self._tasks if task.name not in searched and task.search]
        unseen = self._saved(f"search-{name}", "search", others, recipe) if others else {}
        return {"search": {**self._store.scores_of(trial), **unseen}, "test": test}

    def _saved(self, name: str, side: str, tasks: Sequence[Task], recipe: Recipe) -> Scores:
        folder = self._store.folder
        if not folder.has_scores(name):
            scores = self._scorer.score_side(recipe, side, tasks)
            folder.save_scores(name, scores, {task.name: task.items(side) for task in tasks})
        return folder.load_scores(name)


def search_estimate(tasks: TaskSet, store: RunStore, trial: FrozenTrial, seed: int) -> Estimate:
    """A completed trial's objective on the search items, with its interval; ``seed`` is the run's."""
    return estimate(tasks, "search", store.scores_of(trial), derive(seed, "bootstrap", trial.number))


def estimate(tasks: TaskSet, side: str, scores: Scores, seed: int) -> Estimate:
    """The objective of one side's scores, with its interval."""
    return bootstrap(tasks.strata(side, scores), tasks.objective(side).combine, seed)


def task_values(task: Task, sides: Sides) -> dict[str, float]:
    """A task's metric on each side that has items, and on all items."""
    present = [side for side in SIDES if task.items(side)]
    values = {side: task.value(side, sides[side][task.name]) for side in present}
    items = [item for side in present for item in task.items(side)]
    scores = torch.cat([sides[side][task.name] for side in present])
    return {**values, "all": task.evaluator.value(items, scores)}
