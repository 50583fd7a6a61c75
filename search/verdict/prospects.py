"""What there is to win, and what the test items can prove: known once the baselines are scored on the search items.

The tasks' best single models show what one model could have of all tasks. The paired differences between the baselines
show how exactly two models can be compared, and which task decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from mergesearch.evaluators import Item
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.problem.tasks import Scores, Task
from mergesearch.search.statistics import detectable_difference, difference_of
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_store import RunStore
from mergesearch.search.verdict.outlook import POWER, Prospects, TaskProspect

EXPECTED_CHANGES = 0.15
"""The part of the answers that are right in one of two close merges alone; .1 to .2 were measured."""


def prospects(tasks: TaskSet, store: RunStore, ensemble: float | None) -> Prospects | None:
    """The prospects after the baselines; None where none is scored, or there are several objectives."""
    baselines = [each for each in t.of_kind(store.study, t.BASELINE) if each.state == TrialState.COMPLETE]
    if not baselines or tasks.directions is not None:
        return None
    scores = {trial.number: store.scores_of(trial) for trial in baselines}
    best = t.best(baselines)
    singles = [trial for trial in baselines if len(t.recipe_of(trial).models) == 1] or baselines
    experts = {task.name: _expert(task, singles) for task in tasks.counted("search")}
    combine = tasks.objective("search").combine
    rows = [task.values("search", scores[experts[task.name].number][task.name]) for task in tasks.counted("search")]
    others = [scores[trial.number] for trial in baselines if trial is not best]
    noise = _noise(tasks, scores[best.number], others)
    return Prospects(
        str(best.user_attrs[t.NAME]),
        t.score_of(best),
        float(combine(np.concatenate(rows))),
        noise.detectable if noise else None,
        [_prospect(task, tasks, best, experts[task.name], noise) for task in tasks.counted("search")],
        ensemble,
    )


def expected_noise(tasks: TaskSet) -> "Noise | None":
    """What can be said of the noise before anything is scored; None unless the objective is a mean of accuracies.

    It supposes that two close merges differ in ``EXPECTED_CHANGES`` of the answers, one by one.
    """
    counted = tasks.counted("test")
    if tasks.aggregate != "mean" or any(not is_accuracy(task) or task.normalize for task in counted):
        return None
    total = sum(task.weight for task in counted)
    parts = {task.name: (task.weight / total) ** 2 * EXPECTED_CHANGES / len(task.test) for task in counted}
    return Noise(parts, inf)


def is_accuracy(task: Task) -> bool:
    """Whether the task's value is a part of its items that are right."""
    return task.evaluator.metric.name.startswith(("acc", "exact_match"))


def clusters_of(items: Sequence[Item]) -> int:
    """The number of clusters: items with the same content are one."""
    return len({item.fingerprint for item in items})


def _expert(task: Task, singles: Sequence[FrozenTrial]) -> FrozenTrial:
    sign = 1.0 if task.evaluator.metric.higher_is_better else -1.0
    return max(singles, key=lambda trial: sign * trial.user_attrs[t.VALUES][task.name])


def _prospect(
    task: Task, tasks: TaskSet, best: FrozenTrial, expert: FrozenTrial, noise: "Noise | None"
) -> TaskProspect:
    return TaskProspect(
        task.name,
        len(task.test),
        clusters_of(task.test),
        noise.share(task.name) if noise else None,
        best.user_attrs[t.VALUES][task.name],
        str(expert.user_attrs[t.NAME]),
        expert.user_attrs[t.VALUES][task.name],
        task.weight / sum(each.weight for each in tasks.counted("search")),
    )


@dataclass(frozen=True)
class Noise:
    """The variance of a difference in the objective on the test items, by task, and its degrees of freedom."""

    variances: dict[str, float]
    degrees: float

    @property
    def total(self) -> float:
        return sum(self.variances.values())

    @property
    def detectable(self) -> float:
        """The smallest gain that is proven with the power."""
        return detectable_difference(sqrt(self.total), self.degrees, POWER)

    def share(self, task: str) -> float:
        """The task's share of the variance."""
        return self.variances[task] / self.total


def _noise(tasks: TaskSet, best: Scores, others: Sequence[Scores]) -> Noise | None:
    """That of the baseline in the middle, of all compared with the best; None where the sides have other tasks."""
    counted = tasks.counted("search")
    if [task.name for task in counted] != [task.name for task in tasks.counted("test")]:
        return None
    pairs = sorted((_pair_noise(tasks, counted, best, other) for other in others), key=lambda noise: noise.total)
    differing = [noise for noise in pairs if noise.total > 0]
    return differing[len(differing) // 2] if differing else None


def _pair_noise(tasks: TaskSet, counted: Sequence[Task], one: Scores, two: Scores) -> Noise:
    strata = tasks.strata("search", one), tasks.strata("search", two)
    found = difference_of(*strata, tasks.objective("search").combine)
    rows = iter((np.nan_to_num(found.variance_shares) * found.standard_error**2).tolist())
    variances = {}
    for task in counted:
        variance = sum(next(rows) for _ in range(task.share("search").rows))
        variances[task.name] = variance * clusters_of(task.search) / clusters_of(task.test)
    return Noise(variances, found.degrees)
