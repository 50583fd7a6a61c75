"""Whether a leg of a descent pays: on search items that it does not descend on."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial
from torch import Tensor

from mergesearch.evaluators import Item
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.problem.tasks import Margins, Scores, Task
from mergesearch.search.signal.parts import Parts
from mergesearch.search.signal.reading import Reading, Readings, graded_difference, seen
from mergesearch.search.statistics import Contrast
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_folder import RunFolder
from mergesearch.seeds import derive

SHARE = 0.25
"""The share of each task's search items that a descent is judged on."""
LEAST_GAIN = 0.8
"""How many standard errors a leg has to gain: the next one costs as much as some candidates.

The gain on a single cluster of items counts as one standard error.
"""
Places = Mapping[str, NDArray[np.bool_]]
"""Some of the search items of each task: [items]."""


class Validation:
    """Two parts of each task's search items, apart by cluster: a descent follows one, and is judged on the other.

    A task that is a single cluster is followed and judged as a whole. ``seed`` is the run's.
    """

    def __init__(self, tasks: TaskSet, folder: RunFolder, seed: int) -> None:
        self._tasks, self._folder = tasks, folder
        self._judged = {
            task.name: _judged(task, derive(seed, "validation", task.name)) for task in tasks.counted("search")
        }

    @property
    def followed(self) -> dict[str, list[Item]]:
        """The items that the descent follows, by task."""
        places = {name: judged if judged.all() else ~judged for name, judged in self._judged.items()}
        return {task.name: list(task.search) for task in self._of(places)}

    def pays(self, end: FrozenTrial, beginning: FrozenTrial | None, bandwidth: float) -> bool:
        """Whether a leg gained more than chance explains; None: its beginning was not scored."""
        if beginning is None:
            return True
        gain = self.gain(end, beginning, bandwidth)
        return gain is not None and gain.value > LEAST_GAIN * gain.standard_error

    def gain(self, one: FrozenTrial, two: FrozenTrial, bandwidth: float) -> Contrast | None:
        """one − two in the graded objective, on the judged items that both were scored on.

        None where a task has none of them, or a trial has no scores.
        """
        if not all(self._folder.has_scores(t.scores_name(trial.number)) for trial in (one, two)):
            return None  # a copy of one that was stopped
        marks = [self._marks(trial) for trial in (one, two)]
        places = {
            name: judged & seen(marks[0][0][name]) & seen(marks[1][0][name]) for name, judged in self._judged.items()
        }
        if not all(chosen.any() for chosen in places.values()):
            return None
        tasks = self._of(places)
        readings = Readings(Parts(tasks), {task.name: Reading(bandwidth, "of a descent") for task in tasks})
        first, second = ((_at(places, scores), _at(places, margins)) for scores, margins in marks)
        return graded_difference(readings, "search", first, second)

    def _marks(self, trial: FrozenTrial) -> tuple[Scores, Margins]:
        name = t.scores_name(trial.number)
        return self._folder.load_scores_and_margins(name, self._tasks.items("search"), partial=True)

    def _of(self, places: Places) -> TaskSet:
        """The counted tasks with only these of their search items."""
        tasks = [task for task in self._tasks if task.name in places]
        return replace(
            self._tasks,
            all=[
                replace(task, search=[task.search[n] for n in np.flatnonzero(places[task.name]).tolist()])
                for task in tasks
            ],
        )


def _at(places: Places, numbers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: numbers[name][chosen] for name, chosen in places.items() if name in numbers}


def _judged(task: Task, seed: int) -> NDArray[np.bool_]:
    """[items]: whether each is judged on. Whole clusters in a random order, up to the share of the items."""
    names, clusters = np.unique([item.fingerprint for item in task.search], return_inverse=True)
    if len(names) == 1:
        return np.full(len(task.search), True)
    order = np.random.default_rng(seed).permutation(len(names))
    sizes = np.bincount(clusters)[order]
    count = max(int((np.cumsum(sizes) <= SHARE * len(task.search)).sum()), 1)
    return np.isin(clusters, order[:count])
