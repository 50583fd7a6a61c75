"""The loop: ask, build, score, tell, until the search has ended. A run may be killed at any instant and resumed.

Candidates other than baselines and soups are raced against the incumbent. The trial of one that is stopped early is
told as pruned, with an estimate of its score. With several objectives nothing is raced: a candidate that is behind in
their sum may be ahead in one of them.

Several processes may work on one run. They ask and tell under the folder's lock, and build and score outside of it. A
lease on each trial says which worker is at it. What takes long to ask for is drawn outside of the lock, and ahead where
that pays (see ``drawing``).
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace

from optuna.trial import FrozenTrial, Trial, TrialState

from mergesearch.errors import UserError, in_words
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.candidates.baselines import BaselineSource
from mergesearch.search.candidates.coordinates import Coordinates
from mergesearch.search.candidates.gradient.start import seconds_descended
from mergesearch.search.candidates.source import Candidate, Done, Source
from mergesearch.search.config.search import Search
from mergesearch.search.optimize.ask import Asked, Asker, Draw
from mergesearch.search.optimize.drawing import Drawing
from mergesearch.search.optimize.first_failures import FirstFailures
from mergesearch.search.optimize.recovery import recover
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.scoring.racing.race import Result
from mergesearch.search.scoring.scorer import Scored, Scorer
from mergesearch.search.space.space import Space
from mergesearch.search.study import trials as t
from mergesearch.search.study.failures import stopped_by
from mergesearch.search.study.journal import noted_together
from mergesearch.search.study.leases import Leases
from mergesearch.search.study.pareto import is_pareto
from mergesearch.search.study.reads import read_once
from mergesearch.search.study.run_store import RunStore
from mergesearch.search.study.stop import Stopped
from mergesearch.search.study.stopping import why_ended
from mergesearch.steps import step

POLL_SECONDS = 0.5
"""Between two looks at what other workers do."""


@dataclass(frozen=True)
class Begun:
    """A leased trial; its recipe, None where making it failed; and whether to score it in full.

    ``draw``: how its point is drawn, where that takes long. ``ahead``: the same for a trial that is asked for ahead.
    """

    trial: Trial
    recipe: Recipe | None
    in_full: bool = False
    draw: Draw | None = None
    ahead: Draw | None = None


class Loop:
    """The search of one run. ``stopping`` ends it; None where it ends when the sources have nothing more to offer.

    ``last`` offers what is scored once it has ended.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what a loop consists of
        self,
        space: Space,
        tasks: TaskSet,
        store: RunStore,
        scorer: Scorer,
        asker: Asker,
        baselines: BaselineSource,
        coordinates: Coordinates,
        stopping: Search | None,
        last: Source | None = None,
    ) -> None:
        self._space = space
        self._tasks = tasks
        self._store = store
        self._scorer = scorer
        self._asker = asker
        self._baselines = baselines
        self._coordinates = coordinates
        self._stopping = stopping
        self._last = last
        self._leases = Leases(store.study, store.folder.workers, store.folder.worker)
        self._drawing = Drawing(space, store, self._leases, self._fail)

    def run(self, on_trial: Callable[[FrozenTrial], None] = lambda _: None) -> None:
        """Runs until the search has ended and no worker is at a trial; ``on_trial`` gets each trial finished here.

        Raises UserError where no candidate can be scored, and Stopped where this worker is asked to stop.
        """
        study, failures = self._store.study, FirstFailures()
        self._scorer.score_constraint_baselines()
        while self.ended is None or t.running(study) or self._offers_last:
            if self._store.folder.is_stopping:
                raise Stopped
            number = self.run_trial()
            if number is None:
                with step("waiting for other workers"):
                    time.sleep(POLL_SECONDS)
            else:
                trial = study.get_trials(deepcopy=False)[number]
                on_trial(trial)
                failures.note(trial)
                self._stop_if_hopeless(failures)
        if not t.completed(study):
            reason = t.finished(study)[0].user_attrs[t.REASON]
            raise UserError(f"no candidate could be scored; the first one's reason: {reason}")

    def _stop_if_hopeless(self, failures: FirstFailures) -> None:
        study = self._store.study
        if failures.are_alike and not t.completed(study) and not t.stopped(study):
            why = failures.why_hopeless(isinstance(self._baselines.next(study), Candidate))
            if why:
                raise UserError(why)

    @property
    def _goes_on(self) -> bool:
        with read_once(self._store.study):
            return self.ended is None or bool(t.running(self._store.study))

    @property
    def ended(self) -> str | None:
        """Why no further trial is begun; None while the search goes on."""
        study = self._store.study
        exhausted = self._asker.exhausted(study)
        if exhausted or self._stopping is None:
            return exhausted
        beside = seconds_descended(self._store.folder)
        return why_ended(study, self._stopping, self._baselines.are_scored(study), beside)

    def run_trial(self) -> int | None:
        """One trial from ask to tell; returns its number, or None where everything left waits for other workers."""
        with step("choosing a candidate"):
            begun = self._begin()
        if begun is None:
            return None
        if begun.recipe is not None:
            with self._given_back_if_ended(begun.trial), self._drawing.beside(begun.ahead):
                self._work_on(begun.trial, begun.recipe, begun.in_full)
        return begun.trial.number

    @contextmanager
    def _given_back_if_ended(self, trial: Trial) -> Iterator[None]:
        """Where this process is told to end, another worker may take the trial at once."""
        try:
            yield
        except BaseException:
            with suppress(Exception):  # what ends the process is what counts
                self._leases.give_back(trial)
            raise

    def _begin(self) -> Begun | None:
        """The next trial, whose point is drawn outside of the lock where that takes long; None as ``run_trial``."""
        with self._store.locked():
            recover(self._store.study, self._leases)
            begun = self._next()
            ahead = self._next_ahead() if begun else None
        if begun is None or begun.draw is None:
            return begun and replace(begun, ahead=ahead)
        with self._given_back_if_ended(begun.trial):
            return replace(begun, recipe=self._drawing.recipe(begun.draw), ahead=ahead)

    def _next(self) -> Begun | None:
        """The next trial: one that was put aside, or a new one while the search goes on."""
        aside = self._drawing.take_aside()
        if aside is not None:
            return Begun(aside, t.recipe_of(self._frozen(aside)))
        asked = self._asker.ask(self._store.study) if self.ended is None else self._ask_last()
        if asked is None:
            return None
        self._leases.take(asked.trial)
        if asked.draw is None:
            return Begun(asked.trial, self._recipe(asked), asked.candidate.kind in t.NAMED)
        if asked.draw.is_slow:
            return Begun(asked.trial, None, draw=asked.draw)
        return Begun(asked.trial, self._drawing.recipe(asked.draw, nullcontext))

    @property
    def _offers_last(self) -> bool:
        return self._last is not None and not isinstance(self._last.next(self._store.study), Done)

    def _ask_last(self) -> Asked | None:
        candidate = self._last.next(self._store.study) if self._last else None
        return self._asker.begin(self._store.study, candidate) if isinstance(candidate, Candidate) else None

    def _next_ahead(self) -> Draw | None:
        """A trial that is asked for ahead, where that pays and its point takes long to draw."""
        if not self._drawing.pays_ahead or self.ended is not None:
            return None
        asked = self._asker.ask_ahead(self._store.study)
        if asked is None:
            return None
        self._leases.take(asked.trial, ahead=True)
        return asked.draw

    def _recipe(self, asked: Asked) -> Recipe | None:
        trial, candidate = asked.trial, asked.candidate
        try:
            with noted_together(self._store.study):
                recipe = candidate.recipe() if candidate.recipe else self._space.ask(trial)
                if candidate.recipe and candidate.kind != t.RECOVERED:
                    self._coordinates.note(trial, recipe)
            trial.set_user_attr(t.RECIPE, recipe.to_yaml())
        except Exception as error:
            self._fail(trial, error)
            return None
        return recipe

    def _frozen(self, trial: Trial) -> FrozenTrial:
        return self._store.study.get_trials(deepcopy=False)[trial.number]

    def _work_on(self, trial: Trial, recipe: Recipe, in_full: bool) -> None:
        with self._leases.renewed(trial), step(t.label_of(self._frozen(trial))):
            with self._drawing.timed_scoring():
                outcome = self._score(recipe, in_full)
            with self._store.locked():
                if not self._leases.is_held(trial):
                    return  # it took so long that another worker was given it
                if isinstance(outcome, Exception):
                    self._fail(trial, outcome)
                else:
                    self._tell(trial, outcome)

    def _score(self, recipe: Recipe, in_full: bool) -> Scored | Exception:
        try:
            if not in_full and self._baselines.are_scored(self._store.study):
                self._scorer.plan_race()
            return self._scorer.score(recipe, in_full)
        except Exception as error:
            return error

    def _fail(self, trial: Trial, error: Exception) -> None:
        """Ends a trial whose candidate failed: NaN, out of memory, an exception in a task.

        What concerns the whole run is raised: a full disk, a failing database, a damaged file of the run.
        """
        if stopped_by(error, self._store.folder.path):
            raise error
        trial.set_user_attr(t.REASON, in_words(error))
        self._store.study.tell(trial, state=TrialState.FAIL)

    def _tell(self, trial: Trial, scored: Scored) -> None:
        result = scored.result
        if result.scores:
            self._store.save_marks(trial.number, result.scores, result.items, result.margins)
        with noted_together(self._store.study):
            self._note(trial, scored)

    def _note(self, trial: Trial, scored: Scored) -> None:
        result, study = scored.result, self._store.study
        trial.set_user_attr(t.PHENOTYPE, scored.phenotype)
        trial.set_user_attr(t.VALUES, result.values)
        trial.set_user_attr(t.SECONDS, scored.seconds)
        trial.set_user_attr(t.ITEMS, scored.spent)
        if scored.same_as:
            trial.set_user_attr(t.SAME_AS, scored.same_as)
        self._set_constraints(trial, result)
        if result.stopped and scored.incumbent:
            self._tell_stopped(trial, result, scored.incumbent)
        elif is_pareto(study):
            trial.set_user_attr(t.SCORE, self._tasks.combined("search", result.scores))
            study.tell(trial, self._tasks.each("search", result.scores))
        else:
            study.tell(trial, self._tasks.combined("search", result.scores))

    def _set_constraints(self, trial: Trial, result: Result) -> None:
        """By how much each constraint is broken (where above 0), for samplers and for ranking."""
        for constraint in self._tasks.constraints:
            name, task = constraint.baseline, constraint.task
            bound = self._scorer.baseline_value(name, task) if name else None
            trial.set_constraint(str(constraint), -constraint.margin(result.values[task], bound))

    def _tell_stopped(self, trial: Trial, result: Result, incumbent: FrozenTrial) -> None:
        """With an estimate of its score, never above the incumbent, than which it was found to be worse."""
        best = t.score_of(incumbent)
        trial.set_user_attr(t.AGAINST, incumbent.number)
        trial.set_user_attr(t.STANDARD_ERROR, result.error)
        trial.report(best if result.estimate is None else min(result.estimate, best), result.count)
        self._store.study.tell(trial, state=TrialState.PRUNED)
