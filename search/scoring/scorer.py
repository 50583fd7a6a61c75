"""Scores of one candidate: looked up where an identical one was scored, raced against the best so far, or in full."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState
from torch import Tensor

from mergesearch.errors import UserError, in_words
from mergesearch.evaluators import Item
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.problem.tasks import Scores, Task
from mergesearch.search.scoring.live_model import Bench
from mergesearch.search.scoring.racing.plan import Course, set_course
from mergesearch.search.scoring.racing.race import Result, run_race, whole_result
from mergesearch.search.study import trials as t
from mergesearch.search.study.pareto import is_pareto


@dataclass(frozen=True)
class Scored:
    """A candidate's scores, its phenotype, how many items were scored now, and how long building and scoring took.

    ``rival`` is the incumbent that it was raced against.
    """

    phenotype: str
    result: Result
    spent: int
    seconds: dict[str, float]
    rival: FrozenTrial | None = None


class Scoring:
    """Builds candidates on the bench and scores them. ``has_baselines``: whether all of them are scored."""

    def __init__(self, bench: Bench, has_baselines: Callable[[], bool]) -> None:
        self._bench = bench
        self._has_baselines = has_baselines
        self._course: Course | None = None
        self._references: dict[str, Result] = {}

    def score(self, recipe: Recipe, in_full: bool) -> Scored:
        """Whatever building or scoring raises goes through."""
        phenotype = recipe.phenotype(self._bench.engine.names)
        rival = None if in_full else self._incumbent()
        known = self._scored_before(phenotype, in_full)
        if known is not None:
            return Scored(phenotype, known, 0, {"build": 0.0, "score": 0.0}, rival)
        self._bench.batches.follow()
        begin = time.perf_counter()
        self._bench.engine.build(recipe)
        built = time.perf_counter()
        result = self._race(self.course, rival) if rival and self.course else self._score_in_full()
        seconds = {"build": built - begin, "score": time.perf_counter() - built}
        return Scored(phenotype, result, result.count, seconds, rival)

    @property
    def course(self) -> Course | None:
        """How candidates are raced, settled when the baselines are scored; None before, and where none are raced."""
        if self._course is None and self._has_baselines():
            self._course = self._settled()
        return self._course

    def score_references(self) -> None:
        """Scores the baselines that constraints name, which every trial is to be held against. Raises UserError."""
        bench = self._bench
        for name in dict.fromkeys(each.baseline for each in bench.job.constraints if each.baseline):
            recipe = bench.job.baselines.recipe_named(name)
            file = t.reference_name(recipe.phenotype(bench.engine.names))
            if not bench.folder.has_scores(file):
                bench.folder.save_scores(file, *self._scored_reference(name, recipe))
            self._references[name] = self._loaded(file)

    def reference(self, baseline: str, task: str) -> float:
        """A task's value of a baseline that a constraint names."""
        return self._references[baseline].values[task]

    def _incumbent(self) -> FrozenTrial | None:
        """The best so far; None before there is any, and where it breaks a constraint, which a worse one may keep."""
        complete = t.contenders(self._bench.study)
        best = t.best(complete) if complete and not is_pareto(self._bench.study) else None
        return None if best is None or t.violation(best) else best

    def _scored_reference(self, name: str, recipe: Recipe) -> tuple[Scores, dict[str, list[Item]]]:
        try:
            self._bench.engine.build(recipe)
            result = self._score_in_full()
        except Exception as error:
            raise UserError(
                f"constraints: {name} could not be scored, so nothing can be held against it: {in_words(error)}"
            ) from error
        return result.scores, result.items

    def _score_in_full(self) -> Result:
        job = self._bench.job
        return whole_result(job, job.score(self._bench.subject, "search", job.searched))

    def _race(self, course: Course, rival: FrozenTrial) -> Result:
        incumbent = self._bench.folder.load_scores(t.scores_name(rival.number))
        return run_race(self._bench.job, course, incumbent, self._score_items)

    def _score_items(self, task: Task, items: Sequence[Item]) -> Tensor:
        return task.evaluator.score(self._bench.subject, items)

    def _settled(self) -> Course | None:
        job, study = self._bench.job, self._bench.study
        baselines = [trial for trial in t.completed(study) if t.kind_of(trial) == t.BASELINE]
        if not job.config.search.racing or not baselines or is_pareto(study):
            return None
        scores = [self._bench.folder.load_scores(t.scores_name(trial.number)) for trial in baselines]
        return set_course(job, scores, job.config.search.racing, job.config.search.seed)

    def _scored_before(self, phenotype: str, in_full: bool) -> Result | None:
        """What an identical candidate got; one that was stopped is no match for one that is wanted in full."""
        folder = self._bench.folder
        for trial in t.finished(self._bench.study):
            name = t.scores_name(trial.number)
            if trial.user_attrs.get(t.PHENOTYPE) != phenotype or not folder.has_scores(name):
                continue
            if trial.state == TrialState.COMPLETE:
                return self._loaded(name)
            if not in_full:
                return Result({}, {}, trial.user_attrs[t.VALUES], stopped=True, estimate=trial.value)
        reference = t.reference_name(phenotype)
        return self._loaded(reference) if folder.has_scores(reference) else None

    def _loaded(self, name: str) -> Result:
        return whole_result(self._bench.job, self._bench.folder.load_scores(name))
