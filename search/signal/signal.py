"""What the search is told of each trial: its graded objective, in the units of the metric, with its standard error.

Everything follows from the study and its files of scores, so that a resumed run goes on as it would have. The trials'
own values stay the metric. Bandwidths, and the lines from grades to the metric, are chosen anew when the number of
candidates that were scored in full has doubled: then every trial is read anew, and until then nothing changes.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from mergesearch.evaluators.contract.graded import spread
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.problem.tasks import Task
from mergesearch.search.signal.bandwidth import BANDWIDTHS, FEWEST_CANDIDATES, USUAL, Choice, choose_bandwidth
from mergesearch.search.signal.foresight import Foresight
from mergesearch.search.signal.parts import Parts
from mergesearch.search.signal.reading import IDENTITY, Contributions, Line, Reading, Readings, seen
from mergesearch.search.statistics import Array, Stratum, difference_of
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_store import RunStore
from mergesearch.search.study.told import ranked

Setting = Literal["auto", "graded", "metric"]
MOST_COMPARED = 256
"""On how many candidates, the latest, a bandwidth is chosen at most."""
MOST_PREDICTORS = 32
"""From how many candidates the unseen items of another one are predicted at most."""


@dataclass(frozen=True)
class _Epoch:
    """The candidates that the readings were chosen on, and what the items add to their objectives."""

    numbers: tuple[int, ...]
    readings: Readings
    candidates: Sequence[Contributions]

    @cached_property
    def mean(self) -> list[Stratum]:
        """The strata of the mean candidate."""
        names = self.candidates[0]
        mean = {name: np.mean([each[name] for each in self.candidates], axis=0) for name in names}
        return self.readings.strata("search", mean)

    def filled(self, contributions: Contributions) -> Contributions:
        """With unseen items predicted, where there is a candidate to predict from."""
        if not self.candidates:
            return {name: np.where(np.isnan(found), np.nanmean(found), found) for name, found in contributions.items()}
        whole = self._foresight.filled(np.concatenate([*contributions.values()]))
        ends = np.cumsum([len(found) for found in contributions.values()])[:-1]
        return dict(zip(contributions, np.split(whole, ends), strict=True))

    @cached_property
    def _foresight(self) -> Foresight:
        """The contributions of all tasks, one after the other."""
        sizes = [len(found) for found in self.candidates[0].values()]
        others = [np.concatenate([*each.values()]) for each in self.candidates[:MOST_PREDICTORS]]
        return Foresight(np.stack(others), np.repeat(np.arange(len(sizes)), sizes))


class Signal:
    """The values of a run's trials that samplers, soups and races are told; higher is better.

    Args:
        tasks: the tasks of the run.
        store: its trials and their scores.
        setting: ``metric`` gives the trials' own values; ``graded`` never takes the bandwidth 0, which is the metric.
    """

    def __init__(self, tasks: TaskSet, store: RunStore, setting: Setting) -> None:
        self._tasks, self._store, self._setting = tasks, store, setting
        self.is_graded = setting != "metric" and any(task.graded for task in tasks.counted("search"))
        """Whether any value differs from the metric."""
        self._objective = tasks.objective("search")
        self._parts = Parts(tasks)
        self._metric = Readings(self._parts)
        self._epoch = _Epoch((), self._metric, [])
        self._completed = 0
        self._contributions: dict[int, Contributions] = {}
        self._values: dict[int, list[float]] = {}
        self._errors: dict[int, float] = {}
        self._shown: dict[int, FrozenTrial] = {}

    @property
    def readings(self) -> Readings:
        """How each task is read at the moment."""
        return self._current().readings

    @property
    def described(self) -> list[str]:
        """For the user: one line for each task of the objective."""
        if not self.is_graded:
            return []
        found = self.readings.by_task.items()
        return [f"{name}: {_described(reading)}" for name, reading in found]

    def value_of(self, trial: FrozenTrial) -> float:
        """The objective of a finished trial; of several their weighted sum; minus infinity for one that failed."""
        if not self._is_read(trial):
            return t.score_of(trial)
        *_, combined = self._values_of(trial.number)
        return combined

    def values_of(self, trial: FrozenTrial) -> list[float]:
        """The objectives of a trial that has values: each task's of several, else the one."""
        if not self._is_read(trial):
            return list(trial.values)
        *each, combined = self._values_of(trial.number)
        return each if self._objective.aggregate == "pareto" else [combined]

    def error_of(self, trial: FrozenTrial) -> float:
        """The standard error of ``value_of``, as compared with the mean candidate on the same items.

        What all candidates share of the items' difficulty does not count. NaN where nothing is known of it.
        """
        if not self._is_read(trial) or not self._current().candidates:
            return float("nan")
        if trial.number not in self._errors:
            contrast = difference_of(self.strata_of(trial), self._current().mean, self._objective.combine)
            self._errors[trial.number] = contrast.standard_error / self._share_seen(trial.number)
        return self._errors[trial.number]

    def _share_seen(self, number: int) -> float:
        """The share of the items that were scored; the others, which are predicted, hardly differ from the mean."""
        scored = [seen(self._store.marks_of(number)[0][task.name]) for task in self._counted]
        return float(np.concatenate(scored).mean())

    def strata_of(self, trial: FrozenTrial) -> list[Stratum]:
        """The trial's graded scores on the search items, as comparisons take them."""
        return self._current().readings.strata("search", self._contributions_of(trial.number))

    def item_scores(self, trial: FrozenTrial) -> Array | None:
        """[items]: what each search item adds to the objective of a scored trial; higher is better.

        As if the objective were the weighted mean, not normalised. None for a trial without scores of its own.
        """
        if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED) or not self._store.has_marks(trial.number):
            return None
        found = self._contributions_of(trial.number)
        adds = [
            share.sign * share.weight / len(parts) * part.shares * found[task.name][part.places]
            for share, task in zip(self._objective.shares, self._counted, strict=True)
            for parts in [self._parts.of(task, "search")]
            for part in parts
        ]
        return np.concatenate(adds)

    def best(self, trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
        """The first of the trials by ``trials.rank``, as they are told; None where there is none."""
        return next(iter(ranked(trials, self.told)), None)

    def told(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """The trials as samplers see them: those that have values are complete, and have the values of the signal.

        The attribute ``trials.STANDARD_ERROR`` of such a copy is the value's standard error.
        """
        self._current()
        return [self._told(trial) for trial in trials]

    def _told(self, trial: FrozenTrial) -> FrozenTrial:
        if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED) or trial.values is None:
            return trial
        if trial.number not in self._shown:
            self._shown[trial.number] = self._copied(trial)
        return self._shown[trial.number]

    def _copied(self, trial: FrozenTrial) -> FrozenTrial:
        told = copy.copy(trial)
        told.state = TrialState.COMPLETE
        if self._is_read(trial):
            told.values = self.values_of(trial)
            several = {t.SCORE: self.value_of(trial)} if t.SCORE in trial.user_attrs else {}
            told.user_attrs = {**trial.user_attrs, **several, t.STANDARD_ERROR: self.error_of(trial)}
        return told

    def _is_read(self, trial: FrozenTrial) -> bool:
        """Whether the trial has a value that is read from its scores."""
        is_scored = trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        return self.is_graded and is_scored and self._store.has_marks(trial.number)

    def _contributions_of(self, number: int) -> Contributions:
        epoch = self._current()
        if number not in self._contributions:
            read = epoch.readings.contributions("search", *self._store.marks_of(number))
            self._contributions[number] = epoch.filled(read)
        return self._contributions[number]

    def _values_of(self, number: int) -> list[float]:
        """Each task's value, and the objective."""
        self._current()
        if number not in self._values:
            rows = self._current().readings.rows("search", self._contributions_of(number))
            self._values[number] = [*self._objective.each(rows).tolist(), float(self._objective.combine(rows))]
        return self._values[number]

    def _current(self) -> _Epoch:
        """The readings of the moment."""
        completed = t.history_of(self._store.study).completed if self.is_graded else []
        if len(completed) == self._completed:
            return self._epoch
        self._completed = len(completed)
        numbers = _chosen_on(completed)
        if numbers != self._epoch.numbers:
            readings = Readings(self._parts, {task.name: self._read(task, numbers) for task in self._counted})
            candidates = [readings.contributions("search", *self._store.marks_of(number)) for number in numbers]
            self._epoch = _Epoch(numbers, readings, candidates)
            for cache in (self._contributions, self._values, self._errors, self._shown):
                cache.clear()
        return self._epoch

    @cached_property
    def _counted(self) -> list[Task]:
        return self._tasks.counted("search")

    def _read(self, task: Task, numbers: Sequence[int]) -> Reading:
        if task.graded is None:
            return Reading(0.0, "its metric has no margins")
        choice = self._choice(task, numbers)
        if not choice.bandwidth:
            return Reading(0.0, choice.reason)
        scale = Readings(self._parts, {task.name: Reading(choice.bandwidth, choice.reason)})
        graded, metric = (self._part_values(readings, task, numbers) for readings in (scale, self._metric))
        return Reading(choice.bandwidth, choice.reason, [_line(*part) for part in zip(graded, metric, strict=True)])

    def _part_values(self, readings: Readings, task: Task, numbers: Sequence[int]) -> Array:
        """[parts, candidates]: the value of each part."""
        contributions = [self._task_contributions(readings, task, number) for number in numbers]
        return np.array([[part.mean(each) for each in contributions] for part in self._parts.of(task, "search")])

    def _task_contributions(self, readings: Readings, task: Task, number: int) -> Array:
        scores, margins = self._store.marks_of(number)
        return readings.of_task(task, "search", scores[task.name], margins.get(task.name))

    def _choice(self, task: Task, numbers: Sequence[int]) -> Choice:
        bandwidths = [each for each in BANDWIDTHS if each or self._setting == "auto"]
        if len(numbers) < FEWEST_CANDIDATES:
            return Choice(USUAL, f"the usual one, until {FEWEST_CANDIDATES} candidates are scored in full")
        numbers, whole = numbers[-MOST_COMPARED:], self._parts.whole(task)
        metric = [whole.sums(self._task_contributions(self._metric, task, number)) for number in numbers]
        grades = [[whole.sums(self._grades(task, number, each)) for number in numbers] for each in bandwidths]
        return choose_bandwidth(bandwidths, np.array(grades), np.array(metric), whole.sizes)

    def _grades(self, task: Task, number: int, bandwidth: float) -> Array:
        """[items]: what they contribute to the graded value, or with bandwidth 0 to the metric."""
        margins = self._store.marks_of(number)[1][task.name]
        if not bandwidth or task.graded is None:
            return self._task_contributions(self._metric, task, number)
        return task.graded.graded_contributions(task.search, margins, bandwidth * spread(margins)).numpy()


def _chosen_on(completed: Sequence[FrozenTrial]) -> tuple[int, ...]:
    """The first complete trials, as many as the largest power of two that there are."""
    count = 1 << len(completed).bit_length() >> 1
    return tuple(trial.number for trial in completed[:count])


def _line(graded: Array, metric: Array) -> Line:
    """The line of least squares from the candidates' graded values to their metric.

    Its slope is 1 where candidates are few, or do not tell of one above 0.
    """
    deviations = graded - graded.mean()
    slope = 0.0
    if len(graded) >= FEWEST_CANDIDATES and deviations.any():
        slope = float(deviations @ metric / (deviations @ deviations))
    slope = slope if slope > 0 else IDENTITY[0]
    return slope, float(metric.mean() - slope * graded.mean())


def _described(reading: Reading) -> str:
    what = f"grades of bandwidth {reading.bandwidth:g}" if reading.bandwidth else "the metric itself"
    return f"{what} ({reading.reason})"
