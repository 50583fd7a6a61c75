"""The loop: ask, build, score, tell, until the run has its trials. A run may be killed at any instant and gone on with.

Candidates beside baselines and soups are raced against the best so far; the trial of one that is stopped is told as
pruned, with an estimate of its score. With several objectives nothing is raced: what is behind in their sum may be
ahead in one of them.

Several processes may work on one run: asking and telling happen under the folder's lock, building and scoring do not,
and a lease on each trial says who is at it.
"""

import time
from collections.abc import Callable

from optuna.exceptions import StorageInternalError
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from mergesearch.errors import UserError, in_words
from mergesearch.files import is_disk_full
from mergesearch.merge_ops.engine.engine import Engine, Say, find_device, silent
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.optimize.ask import Asking
from mergesearch.search.problem.problem import Job
from mergesearch.search.scoring.live_model import Bench
from mergesearch.search.scoring.racing.plan import Course
from mergesearch.search.scoring.racing.race import Result
from mergesearch.search.scoring.scorer import Scored, Scoring
from mergesearch.search.study import trials as t
from mergesearch.search.study.leases import Leases
from mergesearch.search.study.pareto import is_pareto
from mergesearch.search.study.run_folder import RunFolder

WAITED = 0.5
"""Seconds between two looks at what other workers do."""


class Loop(Bench):
    """One run of a job."""

    def __init__(self, job: Job, folder: RunFolder, study: Study, engine: Engine, say: Say = silent) -> None:
        super().__init__(job, folder, study, engine, say)
        self._asking = Asking(self)
        self._scoring = Scoring(self, self._asking.has_baselines)
        self._leases = Leases(study, folder.workers, folder.worker)

    def prepare(self) -> None:
        """Checks the tasks against the model, before anything is scored, and says what users should know."""
        if self.job.config.evaluate.compile and find_device(self.job.config.device) == "cpu":
            self.say("compile: has no effect on the CPU")
        for note in self.job.prepare(self.subject):
            self.say(note)
        self.batches.follow()
        if self.job.soups:
            self.job.soups.prepare(self)
        if self._asking.gradient is not None:
            self.say(self._asking.gradient.described)

    def run(self, on_trial: Callable[[FrozenTrial], None] = lambda _: None) -> None:
        """Goes on until the search has ended and nobody is at a trial; ``on_trial`` sees each one finished here."""
        self._scoring.score_references()
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
        return self._asking.ended

    @property
    def course(self) -> Course | None:
        """How candidates are raced; None before the baselines are scored, and where none are raced."""
        return self._scoring.course

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
        asked = self._asking.ask()
        if asked is None:
            return None
        trial, proposal = asked
        try:
            recipe = proposal.recipe if proposal else self.job.space.ask(trial)
            text = recipe.to_yaml()
        except Exception as error:
            self._fail(trial, error)
            return trial, None, False
        self._leases.take(trial)
        trial.set_user_attr(t.RECIPE, text)
        return trial, recipe, proposal is not None

    def _work_on(self, trial: Trial, recipe: Recipe, is_baseline: bool) -> None:
        with self._leases.renewed(trial):
            try:
                scored: Scored | Exception = self._scoring.score(recipe, in_full=is_baseline)
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

        A full disk is not, nor is the database.
        """
        if is_disk_full(error) or isinstance(error, StorageInternalError):
            raise error
        trial.set_user_attr(t.REASON, in_words(error))
        self.study.tell(trial, state=TrialState.FAIL)

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
            name, task = constraint.baseline, constraint.task
            against = self._scoring.reference(name, task) if name else None
            trial.set_constraint(str(constraint), -constraint.margin(result.values[task], against))

    def _tell_stopped(self, trial: Trial, result: Result, incumbent: FrozenTrial) -> None:
        """With an estimate, never above the incumbent: it was found to be worse."""
        best = t.score_of(incumbent)
        trial.set_user_attr(t.AGAINST, incumbent.number)
        trial.report(best if result.estimate is None else min(result.estimate, best), result.count)
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
