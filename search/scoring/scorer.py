"""The scorer: a candidate's recipe in, its per-item scores on the search items out."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import inf
from typing import Literal

from optuna.trial import FrozenTrial, TrialState
from torch import Tensor

from mergesearch.errors import UserError, in_words
from mergesearch.evaluators import Item
from mergesearch.foreign import other_code
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.config.search import Racing
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.problem.tasks import Margins, Scores, Task
from mergesearch.search.scoring.live_model import LiveModel
from mergesearch.search.scoring.processor_time import processor_seconds
from mergesearch.search.scoring.racing.plan import MOST_REFERENCES, RacePlan, plan_race
from mergesearch.search.scoring.racing.race import Result, run_race, whole_result
from mergesearch.search.scoring.time_limit import limited
from mergesearch.search.scoring.token_budget import RunBudget
from mergesearch.search.signal.signal import Signal
from mergesearch.search.study import trials as t
from mergesearch.search.study.attempts import Attempts
from mergesearch.search.study.pareto import is_pareto
from mergesearch.search.study.run_store import RunStore
from mergesearch.steps import step

SCORING = "scoring"
"""The step in which items are scored."""
SECONDS = ("build", "score", "processor")
"""What is recorded of a candidate: the seconds to build it and to score it, and the processor's to score it."""


@dataclass(frozen=True)
class Scored:
    """A candidate's result, its phenotype, how many items were scored now, and its ``SECONDS``.

    ``incumbent`` is the trial that it was raced against; None where it was scored in full. ``same_as`` is the label of
    a trial with the same model, if there is one.
    """

    phenotype: str
    result: Result
    spent: int
    seconds: dict[str, float]
    incumbent: FrozenTrial | None = None
    same_as: str = ""


class Scorer:
    """Builds candidates into the live model and scores them.

    A candidate that is identical to a scored one takes over its scores. Once the baselines are scored, the others are
    raced against the incumbent, the best one by the ``signal``. ``constraint_baselines`` are the recipes of the
    baselines that constraints name.
    ``trial_timeout`` is the time limit in seconds of building one candidate and scoring it on the search items. It is
    longer where there are more items, as there may be in the verdict.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what scoring consists of
        self,
        tasks: TaskSet,
        live: LiveModel,
        budget: RunBudget,
        store: RunStore,
        racing: Racing | Literal[False],
        seed: int,
        constraint_baselines: Mapping[str, Recipe],
        signal: Signal,
        trial_timeout: float | None = None,
    ) -> None:
        self._tasks = tasks
        self._live = live
        self._budget = budget
        self._store = store
        self._racing = racing
        self._seed = seed
        self._constraint_baselines = constraint_baselines
        self._signal = signal
        self._trial_timeout = trial_timeout
        folder = store.folder
        self._attempts = Attempts(folder.path / "attempts", folder.workers, folder.worker, folder.share)
        self._constraint_results: dict[str, Result] = {}
        self._references: list[int] = []
        self.race_plan: RacePlan | None = None
        """How candidates are raced; None before the baselines are scored, and where racing is off."""

    def score(self, recipe: Recipe, in_full: bool) -> Scored:
        """Scores a candidate on the search items. Passes on whatever building or scoring raises."""
        phenotype = self.phenotype(recipe)
        incumbent = None if in_full else self._incumbent()
        earlier = self._scored_before(phenotype, in_full)
        if earlier is not None:
            same_as = self._label_of_same(phenotype)
            return Scored(phenotype, earlier, 0, dict.fromkeys(SECONDS, 0.0), incumbent, same_as)
        self._budget.follow()
        with self._attempt(phenotype, self._tasks.search_items, recipe):
            begin = time.perf_counter()
            self._build(recipe)
            built, processor = time.perf_counter(), processor_seconds()
            with step(SCORING, self._tasks.search_items, "items"):
                result = self._scored_by_race(phenotype, incumbent) if incumbent else self._score_in_full()
            took = built - begin, time.perf_counter() - built, processor_seconds() - processor
        return Scored(phenotype, result, result.count, dict(zip(SECONDS, took, strict=True)), incumbent)

    def rescore(self, trial: FrozenTrial) -> Result:
        """The result of a completed trial whose scores are lost, with items in the batches that they were scored in."""
        recipe = t.recipe_of(trial)
        phenotype = self.phenotype(recipe)
        earlier = self._scored_before(phenotype, in_full=True)
        if earlier is not None:
            return earlier
        incumbent = None if t.kind_of(trial) in t.NAMED else self._incumbent(before=trial.number)
        if incumbent:
            self.plan_race(before=trial.number)
        with self._attempt(phenotype, self._tasks.search_items, recipe):
            self._build(recipe)
            return self._scored_by_race(phenotype, incumbent, may_stop=False) if incumbent else self._score_in_full()

    def score_side(self, recipe: Recipe, side: str, tasks: Sequence[Task]) -> tuple[Scores, Margins]:
        """Scores a candidate on all items that these tasks have on one side; with the margins of graded tasks."""
        with self._attempt(self.phenotype(recipe), sum(len(task.items(side)) for task in tasks), recipe):
            self._build(recipe)
            with step(SCORING, sum(len(task.items(side)) for task in tasks), "items"):
                return self._tasks.score_with_margins(self._live.loaded, side, tasks)

    @contextmanager
    def _attempt(self, phenotype: str, items: int, recipe: Recipe) -> Iterator[None]:
        """Around building a candidate and scoring it on so many items: noted, and within its time limit.

        Recovery has none: its steps are given.
        """
        share = max(1.0, items / self._tasks.search_items)
        limit = None if self._trial_timeout is None or recipe.recover else self._trial_timeout * share
        with self._attempts.noted(phenotype) as log, limited(limit, log):
            yield

    def _build(self, recipe: Recipe) -> None:
        """Builds the candidate. Raises UserError where a model with its own tokenizer cannot be scored on a task."""
        with other_code(f"merge method {recipe.merge_method!r}"), step(f"building {recipe.merge_method}"):
            self._live.engine.build(recipe)
        if self._live.engine.is_standalone(recipe):
            self._tasks.prepare(self._live.loaded)

    def phenotype(self, recipe: Recipe) -> str:
        """A hash that recipes share when they build the same model from the same checkpoints."""
        engine = self._live.engine
        alone = "-alone" if engine.is_standalone(recipe) else ""
        return engine.phenotype(recipe, self._live.contents) + alone

    def plan_race(self, before: float = inf) -> None:
        """Plans how candidates are raced, from those that were scored in full so far, or ``before`` a trial."""
        study = self._store.study
        if not self._racing or is_pareto(study):
            return
        trials = [trial for trial in t.completed(study) if trial.number < before]
        trials.sort(key=lambda trial: (t.kind_of(trial) != t.BASELINE, t.rank(trial)))
        references = sorted(trial.number for trial in trials[:MOST_REFERENCES])
        if references != self._references:
            marks = [self._store.marks_of(number) for number in references]
            self.race_plan = plan_race(self._tasks, marks, self._racing, self._seed)
            self._references = references

    def score_constraint_baselines(self) -> None:
        """Scores the baselines that constraints name, with which every trial is compared. Raises UserError."""
        folder = self._store.folder
        for name, recipe in self._constraint_baselines.items():
            file = t.reference_name(self.phenotype(recipe))
            if not folder.has_scores(file):
                result = self._score_constraint_baseline(name, recipe)
                folder.save_scores(file, result.scores, result.items, result.margins)
            self._constraint_results[name] = self._load(file)

    def baseline_value(self, baseline: str, task: str) -> float:
        """A task's value of a baseline that a constraint names, on the search items."""
        return self._constraint_results[baseline].values[task]

    def _incumbent(self, before: float = inf) -> FrozenTrial | None:
        """The best trial so far, or of those ``before`` a trial.

        None where there is none, or it breaks a constraint, which a worse one may keep.
        """
        study = self._store.study
        if is_pareto(study):
            return None
        if before == inf:
            best = self._signal.best(t.contenders(study)) if self._signal.is_graded else t.incumbent(study)
        else:
            best = self._signal.best([trial for trial in t.contenders(study) if trial.number < before])
        return None if best is None or t.violation(best) else best

    def _score_constraint_baseline(self, name: str, recipe: Recipe) -> Result:
        try:
            with (
                self._attempt(self.phenotype(recipe), self._tasks.search_items, recipe),
                step(f"{name}, for a constraint"),
            ):
                self._build(recipe)
                with step(SCORING, self._tasks.search_items, "items"):
                    return self._score_in_full()
        except Exception as error:
            raise UserError(
                f"constraints: {name} could not be scored, so no candidate can be compared with it: {in_words(error)}"
            ) from error

    def _score_in_full(self) -> Result:
        scored = self._tasks.score_with_margins(self._live.loaded, "search", self._tasks.searched)
        return whole_result(self._tasks, *scored)

    def _scored_by_race(self, phenotype: str, incumbent: FrozenTrial, may_stop: bool = True) -> Result:
        """The result of a race, where candidates are raced."""
        if self.race_plan is None:
            return self._score_in_full()
        scores, _ = self._store.marks_of(incumbent.number)
        plan = self.race_plan if may_stop else replace(self.race_plan, error=0.0)
        return run_race(self._tasks, plan, scores, self._score_items, phenotype)

    def _score_items(self, task: Task, items: Sequence[Item]) -> tuple[Tensor, Tensor | None]:
        return task.score_with_margins(self._live.loaded, items)

    def _scored_before(self, phenotype: str, in_full: bool) -> Result | None:
        """The result of an identical candidate; that of a stopped one does not do where full scores are wanted."""
        folder = self._store.folder
        for trial in t.history_of(self._store.study).phenotypes.get(phenotype, ()):
            name = t.scores_name(trial.number)
            if trial.state == TrialState.COMPLETE and folder.has_scores(name):
                return self._load(name)
            if trial.state == TrialState.PRUNED and not in_full:
                error = trial.user_attrs[t.STANDARD_ERROR]
                return Result({}, {}, trial.user_attrs[t.VALUES], stopped=True, estimate=trial.value, error=error)
        reference = t.reference_name(phenotype)
        return self._load(reference) if folder.has_scores(reference) else None

    def _label_of_same(self, phenotype: str) -> str:
        trials = t.history_of(self._store.study).phenotypes.get(phenotype, ())
        return next((t.label_of(trial) for trial in trials), "")

    def _load(self, name: str) -> Result:
        folder, items = self._store.folder, self._tasks.items("search")
        return whole_result(self._tasks, *folder.load_scores_and_margins(name, items))
