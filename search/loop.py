"""The loop: ask, build, score, tell, until the run has its trials. A run may be killed at any instant and gone on with.

The order of candidates depends on the finished trials alone: the baselines that are not scored yet, then the soups that
were asked for, then the usual settings of each method in the space, then the points of the gradient start, then the
sampler, seeded with the run's seed and the count of trials that were begun. So a run that was killed and resumed asks
for what it would have asked for otherwise. Candidates beside baselines and soups are raced against the best so far; the
trial of one that is stopped is told as pruned, with an estimate of its score. With several objectives nothing is raced:
what is behind in their sum may be ahead in one of them.

Several processes may work on one run: asking and telling happen under the folder's lock, building and scoring do not,
and a lease on each trial says who is at it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from torch import Tensor

from mergesearch.errors import UserError, in_words
from mergesearch.evaluators import Item, LoadedModel
from mergesearch.files import is_disk_full
from mergesearch.merge_ops.engine import Engine, Say, silent
from mergesearch.merge_ops.recipe import Recipe
from mergesearch.search import trials as t
from mergesearch.search.baselines import Baseline, usual_settings
from mergesearch.search.endings import why_ended
from mergesearch.search.estimates import StudyWithEstimates
from mergesearch.search.gradients import GradientStart
from mergesearch.search.job import Job, Scores, Task, live_model
from mergesearch.search.leases import Leases
from mergesearch.search.pareto import is_pareto
from mergesearch.search.racing import Course, Result, run_race, set_course, whole_result
from mergesearch.search.schedule import Strategy
from mergesearch.search.soup_stage import LearnedSoup
from mergesearch.search.store import RunFolder

WAITED = 0.5
"""Seconds between two looks at what other workers do."""


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


class Loop:
    """One run of a job. ``study`` is all that it remembers, with the per-item scores in ``folder``.

    ``say`` is given lines for the user.
    """

    def __init__(self, job: Job, folder: RunFolder, study: Study, engine: Engine, say: Say = silent) -> None:
        self.job = job
        self.folder = folder
        self.study = study
        self.engine = engine
        self._scored: tuple[Any, Any] = (None, None)
        self._say = say
        self._strategy = Strategy(job.space, job.config.search, several=is_pareto(study))
        self._leases = Leases(study, folder.workers, folder.worker)
        self._course: Course | None = None
        self._are_baselines_done = False
        self._references: dict[str, Result] = {}

    @property
    def subject(self) -> LoadedModel:
        """The live model as evaluators take it; another one where the engine has built one of another depth."""
        engine = self.engine
        if self._scored[0] is not engine.model:
            self._scored = engine.model, live_model(engine.model, self.job.config.evaluate, lambda: engine.built)
        return LoadedModel(self._scored[1], engine.tokenizer, engine.save)

    @cached_property
    def _gradient(self) -> GradientStart | None:
        """What finds the points of the gradient start, where the config wants one."""
        wanted = self.job.config.search.start == "gradient"
        return GradientStart(self.job, self.engine, self.subject, self._say) if wanted else None

    def prepare(self) -> None:
        """Checks the tasks against the model, before anything is scored, and says what users should know."""
        for note in self.job.prepare(self.subject):
            self._say(note)
        if self.job.soups:
            self.job.soups.prepare(self)
        if self._gradient is not None:
            self._say(self._gradient.described)

    def run(self, on_trial: Callable[[FrozenTrial], None] = lambda _: None) -> None:
        """Goes on until the search has ended and nobody is at a trial; ``on_trial`` sees each one finished here."""
        self._score_references()
        while self.ended is None or t.running(self.study):
            number = self.run_trial()
            if number is None:
                time.sleep(WAITED)
            else:
                on_trial(self.study.get_trials(deepcopy=False)[number])
        if not t.completed(self.study):
            reason = t.finished(self.study)[0].user_attrs[t.REASON]
            raise UserError(f"no candidate could be scored; the first one's reason: {reason}")

    @property
    def ended(self) -> str | None:
        """Why no further trial is begun; None while the search goes on."""
        if self.job.config.soup:
            return None if self._in_work() or self._proposed() else "every soup was made"
        if self._strategy.is_exhausted(self.study):
            return "every point of the grid was asked for"
        return why_ended(self.study, self.job.config.search, self._has_baselines())

    def run_trial(self) -> int | None:
        """One trial from ask to tell; its number, or None where all that is left to ask waits for other workers."""
        with self.folder.locked():
            self._recover()
            begun = self._begin() if self.ended is None else None
        if begun is None:
            return None
        trial, recipe, is_baseline = begun
        if isinstance(recipe, Recipe):
            self._work_on(trial, recipe, is_baseline)
        return trial.number

    def _begin(self) -> tuple[Trial, Recipe | None, bool] | None:
        """The next trial, leased, with its recipe; without one where it could not be made, and failed."""
        asked = self._ask()
        if asked is None:
            return None
        trial, baseline = asked
        try:
            recipe = baseline.recipe if baseline else self.job.space.ask(trial)
            text = recipe.to_yaml()
        except Exception as error:
            self._fail(trial, error)
            return trial, None, False
        self._leases.take(trial)
        trial.set_user_attr(t.RECIPE, text)
        return trial, recipe, baseline is not None

    def _work_on(self, trial: Trial, recipe: Recipe, is_baseline: bool) -> None:
        with self._leases.renewed(trial):
            try:
                scored: Scored | Exception = self._score(recipe, in_full=is_baseline)
            except Exception as error:
                scored = error
            with self.folder.locked():
                self._end(trial, scored)

    def _end(self, trial: Trial, scored: Scored | Exception) -> None:
        if not self._leases.is_held(trial):
            return  # it took so long that another worker was given it
        if isinstance(scored, Exception):
            self._fail(trial, scored)
        else:
            self._tell(trial, scored)

    def _fail(self, trial: Trial, error: Exception) -> None:
        """Whatever goes wrong with one candidate is its own affair: NaN, out of memory, a task's exception.

        A full disk is not.
        """
        if is_disk_full(error):
            raise error
        trial.set_user_attr(t.REASON, in_words(error))
        self.study.tell(trial, state=TrialState.FAIL)

    def _ask(self) -> tuple[Trial, Baseline | LearnedSoup | None] | None:
        if self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            return self._ask_sampler(), None
        baseline = self._proposed()
        if baseline is None:
            if self._in_work() and not self._can_start_early():
                return None
            if not self._enqueue_start():
                self._enqueue_gradient()
            return self._ask_sampler(), None
        self.study.sampler = optuna.samplers.RandomSampler(seed=0)
        trial = self.study.ask()
        trial.set_user_attr(t.KIND, baseline.kind)
        trial.set_user_attr(t.NAME, baseline.name)
        return trial, baseline

    def _proposed(self) -> Baseline | LearnedSoup | None:
        """What comes before the sampler's own candidates: the baselines, then the soups."""
        in_work = self._in_work()
        baseline = self.job.baselines.following(self._baseline_scores(), in_work)
        return baseline or (self.job.soups.following(self) if self.job.soups and not in_work else None)

    def _ask_sampler(self) -> Trial:
        self.study.sampler = self._strategy.sampler(self.study)
        return StudyWithEstimates(self.study).ask()

    def _in_work(self) -> set[str]:
        """The names of the baselines and soups that are being scored now, elsewhere."""
        running = [trial for trial in t.running(self.study) if t.kind_of(trial) in t.NAMED]
        return {str(trial.user_attrs[t.NAME]) for trial in running if t.NAME in trial.user_attrs}

    def _has_baselines(self) -> bool:
        if not self._are_baselines_done and not self._in_work():
            self._are_baselines_done = self.job.baselines.following(self._baseline_scores()) is None
        return self._are_baselines_done

    def _can_start_early(self) -> bool:
        """Whether a usual setting, which depends on no score, is left, and the trials suffice for all baselines."""
        if self.job.soups:
            return False
        begun = t.begun(self.study)
        missing = len(self.job.baselines) - sum(t.kind_of(trial) == t.BASELINE for trial in begun)
        is_left = {method.name for method in self.job.space.methods} - self._names(t.START)
        return bool(is_left) and len(begun) + missing < self.job.config.search.trials

    def _enqueue_start(self) -> bool:
        """Puts the next usual setting that has no trial yet before whatever the sampler would ask, if there is one."""
        space, known = self.job.space, self._names(t.START)
        for method in space.methods:
            if method.name not in known:
                point = space.start(method, usual_settings(len(space.models)).get(method.name, {}))
                self.study.enqueue_trial(point, user_attrs={t.KIND: t.START, t.NAME: method.name})
                return True
        return False

    def _enqueue_gradient(self) -> None:
        """The same with the points that gradients led to, which are found once and kept in the folder."""
        if self._gradient is None:
            return
        known = self._names(t.GRADIENT)
        for name, point in self._gradient.points(self.study, self.folder).items():
            if name not in known:
                self.study.enqueue_trial(point, user_attrs={t.KIND: t.GRADIENT, t.NAME: name})
                return

    def _baseline_scores(self) -> dict[str, float]:
        return {
            str(trial.user_attrs[t.NAME]): t.score_of(trial)
            for trial in t.finished(self.study)
            if t.kind_of(trial) == t.BASELINE
        }

    def _names(self, kind: str) -> set[object]:
        trials = self.study.get_trials(deepcopy=False)
        return {trial.user_attrs.get(t.NAME) for trial in trials if t.kind_of(trial) == kind}

    def _score(self, recipe: Recipe, in_full: bool) -> Scored:
        phenotype = recipe.phenotype(self.engine.names)
        rival = None if in_full else self._incumbent()
        known = self._scored_before(phenotype, in_full)
        if known is not None:
            return Scored(phenotype, known, 0, {"build": 0.0, "score": 0.0}, rival)
        begin = time.perf_counter()
        self.engine.build(recipe)
        built = time.perf_counter()
        result = self._race(self.course, rival) if rival and self.course else self._score_in_full()
        seconds = {"build": built - begin, "score": time.perf_counter() - built}
        return Scored(phenotype, result, result.count, seconds, rival)

    def _incumbent(self) -> FrozenTrial | None:
        """The best so far; None before there is any, and where it breaks a constraint, which a worse one may keep."""
        complete = t.contenders(self.study)
        best = t.best(complete) if complete and not is_pareto(self.study) else None
        return None if best is None or t.violation(best) else best

    def _score_references(self) -> None:
        """Scores the baselines that constraints name, which every trial is to be held against. Raises UserError."""
        for name in dict.fromkeys(each.baseline for each in self.job.constraints if each.baseline):
            recipe = self.job.baselines.recipe_named(name)
            file = t.reference_name(recipe.phenotype(self.engine.names))
            if not self.folder.has_scores(file):
                self.folder.save_scores(file, *self._scored_reference(name, recipe))
            self._references[name] = whole_result(self.job, self.folder.load_scores(file))

    def _scored_reference(self, name: str, recipe: Recipe) -> tuple[Scores, dict[str, list[Item]]]:
        try:
            self.engine.build(recipe)
            result = self._score_in_full()
        except Exception as error:
            raise UserError(
                f"constraints: {name} could not be scored, so nothing can be held against it: {in_words(error)}"
            ) from error
        return result.scores, result.items

    def _score_in_full(self) -> Result:
        return whole_result(self.job, self.job.score(self.subject, "search", self.job.searched))

    def _race(self, course: Course, rival: FrozenTrial) -> Result:
        incumbent = self.folder.load_scores(t.scores_name(rival.number))
        return run_race(self.job, course, incumbent, self._score_items)

    def _score_items(self, task: Task, items: Sequence[Item]) -> Tensor:
        return task.evaluator.score(self.subject, items)

    @property
    def course(self) -> Course | None:
        """How candidates are raced, settled when the baselines are scored; None before, and where none are raced."""
        if self._course is None and self._has_baselines():
            self._course = self._settled()
        return self._course

    def _settled(self) -> Course | None:
        racing = self.job.config.search.racing
        baselines = [trial for trial in t.completed(self.study) if t.kind_of(trial) == t.BASELINE]
        if not racing or not baselines or is_pareto(self.study):
            return None
        scores = [self.folder.load_scores(t.scores_name(trial.number)) for trial in baselines]
        return set_course(self.job, scores, racing, self.job.config.search.seed)

    def _scored_before(self, phenotype: str, in_full: bool) -> Result | None:
        """What an identical candidate got; one that was stopped is no match for one that is wanted in full."""
        for trial in t.finished(self.study):
            name = t.scores_name(trial.number)
            if trial.user_attrs.get(t.PHENOTYPE) != phenotype or not self.folder.has_scores(name):
                continue
            if trial.state == TrialState.COMPLETE:
                return whole_result(self.job, self.folder.load_scores(name))
            if not in_full:
                return Result({}, {}, trial.user_attrs[t.VALUES], stopped=True)
        reference = t.reference_name(phenotype)
        return whole_result(self.job, self.folder.load_scores(reference)) if self.folder.has_scores(reference) else None

    def _tell(self, trial: Trial, scored: Scored) -> None:
        result = scored.result
        if result.scores:
            self.folder.save_scores(t.scores_name(trial.number), result.scores, result.items)
        trial.set_user_attr(t.PHENOTYPE, scored.phenotype)
        trial.set_user_attr(t.VALUES, result.values)
        trial.set_user_attr(t.SECONDS, scored.seconds)
        trial.set_user_attr(t.ITEMS, scored.spent)
        self._set_constraints(trial, result)
        if result.stopped and scored.rival:
            self._tell_stopped(trial, result, scored.rival)
        elif is_pareto(self.study):
            trial.set_user_attr(t.SCORE, self.job.objective("search", result.scores))
            self.study.tell(trial, self.job.each_objective("search", result.scores))
        else:
            self.study.tell(trial, self.job.objective("search", result.scores))

    def _set_constraints(self, trial: Trial, result: Result) -> None:
        """By how much each constraint is broken (where above 0), for samplers and for ranking."""
        for constraint in self.job.constraints:
            against = self._references[constraint.baseline].values[constraint.task] if constraint.baseline else None
            trial.set_constraint(str(constraint), -constraint.margin(result.values[constraint.task], against))

    def _tell_stopped(self, trial: Trial, result: Result, incumbent: FrozenTrial) -> None:
        """With an estimate, never above the incumbent: it was found to be worse."""
        values = np.array([result.values[task.name] for task in self.job.tasks_of("search")])
        estimate = float(self.job.objective_of("search").combine(values))
        trial.set_user_attr(t.AGAINST, incumbent.number)
        trial.report(min(estimate, t.score_of(incumbent)), result.count)
        self.study.tell(trial, state=TrialState.PRUNED)

    def _recover(self) -> None:
        """Ends the trials whose process was killed, and enqueues what they asked for again, once each."""
        lost = [trial for trial in t.running(self.study) if self._leases.is_lost(trial)]
        if not lost:
            return
        retried = {trial.user_attrs.get(t.RETRY_OF) for trial in self.study.get_trials(deepcopy=False)}
        for trial in lost:
            wish = t.wish_of(trial)
            if wish and trial.number not in retried:
                kept = {key: trial.user_attrs[key] for key in (t.KIND, t.NAME, t.SLOT) if key in trial.user_attrs}
                self.study.enqueue_trial(wish, user_attrs={**kept, t.RETRY_OF: trial.number})
            self._mark_interrupted(trial)

    def _mark_interrupted(self, trial: FrozenTrial) -> None:
        self.study._storage.set_trial_user_attr(trial._trial_id, t.REASON, t.INTERRUPTED)
        self.study.tell(trial.number, state=TrialState.FAIL)
