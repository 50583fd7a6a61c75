"""What the search is told of its trials: graded objectives in the units of the metric, from the study alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import FrozenTrial, TrialState
from torch import Tensor

from mergesearch.evaluators import Item, LoadedModel, Metric
from mergesearch.evaluators.contract.evaluator import MeanOfItems
from mergesearch.evaluators.contract.graded import GradedByMargin
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.problem.tasks import Task
from mergesearch.search.signal.reading import graded_difference
from mergesearch.search.signal.signal import Setting, Signal
from mergesearch.search.statistics import Array
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_folder import RunFolder
from mergesearch.search.study.run_store import RunStore

ITEMS = 200


class Decides(MeanOfItems, GradedByMargin):
    """Accuracy, whose margins were recorded."""

    metric = Metric("acc")
    has_margins = True

    def score_with_margins(self, subject: LoadedModel, items: Sequence[Item]) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class Recorded:
    """A run whose candidates' margins are given, [items] for each task."""

    def __init__(self, folder: Path, setting: Setting = "auto", tasks: Sequence[str] = ("a",), **options: Any) -> None:
        evaluator = cast(Any, Decides())
        self.tasks = TaskSet(
            [
                Task(name, evaluator, 1.0, [Item(str(n), name, str(n)) for n in range(ITEMS)], [], keeps_margins=True)
                for name in tasks
            ],
            **options,
        )
        directions = ["maximize"] * (len(tasks) if options.get("aggregate") == "pareto" else 1)
        self.study = optuna.create_study(directions=directions)
        self.folder, self.setting = RunFolder(folder), setting
        self.store = RunStore(self.folder, self.study, self.tasks.items("search"))
        self.signal = Signal(self.tasks, self.store, setting)

    def add(self, *margins: Array, stopped_at: int = ITEMS) -> FrozenTrial:
        """A candidate that was scored in full, or stopped after some items."""
        names = [task.name for task in self.tasks]
        behind = {name: torch.tensor(each[:stopped_at]) for name, each in zip(names, margins, strict=True)}
        scores = {name: (each > 0).double() for name, each in behind.items()}
        items = {task.name: task.search[:stopped_at] for task in self.tasks}
        trial = self.study.ask()
        self.folder.save_scores(t.scores_name(trial.number), scores, items, behind)
        values = [float(each.mean()) for each in scores.values()]
        trial.set_user_attr(t.SCORE, float(np.mean(values)))
        if stopped_at < ITEMS:
            trial.report(float(np.mean(values)), stopped_at)
            return self.study.tell(trial, state=TrialState.PRUNED)
        return self.study.tell(trial, values if len(self.study.directions) > 1 else float(np.mean(values)))

    def again(self) -> Signal:
        """The signal of another process."""
        return Signal(self.tasks, self.store, self.setting)


def candidates(count: int, seed: int = 0, quality: float = 0.3) -> list[Array]:
    """Margins of candidates from bad to good, on items some of which are easy."""
    rng = np.random.default_rng(seed)
    ease = rng.normal(0.5, 1, ITEMS)
    return [ease + rate + rng.normal(0, 0.5, ITEMS) for rate in np.linspace(-quality, quality, count)]


def test_values_are_in_the_units_of_the_metric_and_have_errors(tmp_path: Path) -> None:
    run = Recorded(tmp_path)
    trials = [run.add(3 * margins) for margins in candidates(16)]
    told, metric = [run.signal.value_of(trial) for trial in trials], [trial.value for trial in trials]
    assert np.mean(told) == pytest.approx(np.mean(cast(Any, metric)), abs=1e-9)
    assert np.corrcoef(told, cast(Any, metric))[0, 1] > 0.9
    assert told != metric
    errors = [run.signal.error_of(trial) for trial in trials]
    assert all(0 < error < np.sqrt(0.25 / ITEMS) for error in errors), "less than that of an accuracy by itself"


def test_flatter_margins_gain_nothing(tmp_path: Path) -> None:
    run = Recorded(tmp_path, "graded")
    for margins in candidates(9):
        run.add(margins)
    one, *flattened = (run.add(scale * candidates(9)[2]) for scale in (1.0, 0.01, 0.5, 2.0, 100.0))
    for other in flattened:
        assert run.signal.value_of(other) == pytest.approx(run.signal.value_of(one), abs=1e-9)


def test_the_metric_is_told_as_it_is(tmp_path: Path) -> None:
    run = Recorded(tmp_path, "metric")
    trials = [run.add(margins) for margins in candidates(9)]
    stopped = run.add(candidates(9)[0], stopped_at=50)
    assert not run.signal.is_graded
    assert [run.signal.value_of(trial) for trial in trials] == [trial.value for trial in trials]
    assert run.signal.told(trials)[0] is not None
    assert run.signal.told([stopped])[0].state == TrialState.COMPLETE
    assert run.signal.told([stopped])[0].value == stopped.value
    assert run.signal.best(trials) == t.best(trials)


def test_another_process_reads_the_same(tmp_path: Path) -> None:
    run = Recorded(tmp_path)
    trials = []
    for number, margins in enumerate(candidates(20)):
        trials.append(run.add(margins, stopped_at=80 if number % 5 == 4 else ITEMS))
        again = run.again()
        assert [again.value_of(trial) for trial in trials] == [run.signal.value_of(trial) for trial in trials]
        assert again.described == run.signal.described


def test_values_change_only_when_the_candidates_have_doubled(tmp_path: Path) -> None:
    run = Recorded(tmp_path)
    first, *others = candidates(16)
    trial, changed = run.add(first), []
    value = run.signal.value_of(trial)
    for count, margins in enumerate(others, start=2):
        run.add(margins)
        if run.signal.value_of(trial) != value:
            changed.append(count)
            value = run.signal.value_of(trial)
    assert changed == [2, 4, 8, 16]


def test_a_stopped_candidate_is_read_from_what_was_seen(tmp_path: Path) -> None:
    run = Recorded(tmp_path)
    known = candidates(17)
    for margins in known[::2]:
        run.add(margins)
    for margins in known[1::2]:
        stopped, whole = run.add(margins, stopped_at=60), run.add(margins)
        assert run.signal.value_of(stopped) == pytest.approx(run.signal.value_of(whole), abs=0.06)
        assert run.signal.error_of(stopped) > run.signal.error_of(whole)
        assert run.signal.told([stopped])[0].state == TrialState.COMPLETE


def test_each_objective_of_several_is_graded(tmp_path: Path) -> None:
    run = Recorded(tmp_path, tasks=("a", "b"), aggregate="pareto")
    trials = [run.add(one, two) for one, two in zip(candidates(8), reversed(candidates(8, 1)), strict=True)]
    told = np.array([trial.values for trial in run.signal.told(trials)])
    metric = np.array([trial.values for trial in trials])
    assert told.shape == metric.shape
    assert not np.array_equal(told, metric)
    assert np.abs(told.mean(0) - metric.mean(0)).max() < 1e-9


def test_a_graded_difference_is_that_of_the_values(tmp_path: Path) -> None:
    run = Recorded(tmp_path)
    one, *_, two = [run.add(margins) for margins in candidates(9)]
    items = run.tasks.items("search")
    marks = [run.folder.load_scores_and_margins(t.scores_name(trial.number), items) for trial in (two, one)]
    found = graded_difference(run.signal.readings, "search", *marks)
    assert found.value == pytest.approx(run.signal.value_of(two) - run.signal.value_of(one), abs=1e-9)
    assert 0 < found.standard_error < found.value


def test_each_task_says_how_it_is_read(tmp_path: Path) -> None:
    run = Recorded(tmp_path, tasks=("a", "b"))
    run.add(*candidates(1), *candidates(1))
    assert run.signal.described == [
        f"{name}: grades of bandwidth 0.35 (the usual one, until 8 candidates are scored in full)" for name in "ab"
    ]


@pytest.mark.parametrize("setting", ["auto", "metric"])
def test_items_add_up_to_the_objective(tmp_path: Path, setting: Setting) -> None:
    run = Recorded(tmp_path, setting, ("a", "b"))
    trials = [run.add(*each) for each in zip(candidates(9), candidates(9, seed=1), strict=True)]
    for trial in trials:
        found = run.signal.item_scores(trial)
        assert found is not None
        assert found.shape == (2 * ITEMS,)
        assert found.sum() / 2 == pytest.approx(run.signal.value_of(trial))
    stopped = run.add(candidates(9)[0], candidates(9, seed=1)[0], stopped_at=50)
    found = run.signal.item_scores(stopped)
    assert found is not None
    assert np.isfinite(found).all()


def test_nothing_is_known_of_the_items_of_a_candidate_without_scores(tmp_path: Path) -> None:
    run = Recorded(tmp_path)
    trial = run.study.ask()
    assert run.signal.item_scores(run.study.tell(trial, 0.5)) is None
    assert run.signal.item_scores(run.study.tell(run.study.ask(), state=TrialState.FAIL)) is None
