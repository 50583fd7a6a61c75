"""One process's work on a run."""

from dataclasses import asdict
from functools import cached_property

from optuna.trial import FrozenTrial

from mergesearch.errors import UserError, in_words
from mergesearch.merge_ops.engine.engine import find_device
from mergesearch.search.candidates.baselines import BaselineSource, constraint_baselines
from mergesearch.search.candidates.centre_source import CentreSource
from mergesearch.search.candidates.coarse_to_fine import DEEPEST, CoarseToFine
from mergesearch.search.candidates.coordinates import Coordinates
from mergesearch.search.candidates.gradient.calibration_loss import CalibrationLoss
from mergesearch.search.candidates.gradient.start import GradientSource
from mergesearch.search.candidates.gradient.validation import Validation
from mergesearch.search.candidates.learned_soup import SoupLearner
from mergesearch.search.candidates.plan import SearchPlan
from mergesearch.search.candidates.sampler_source import SamplerSource
from mergesearch.search.candidates.soup_source import SoupSource
from mergesearch.search.candidates.source import Source
from mergesearch.search.optimize.ask import Asker
from mergesearch.search.optimize.callbacks import QUIET, RunView, Watcher
from mergesearch.search.optimize.loop import Loop
from mergesearch.search.problem.identity import FILE as IDENTITY
from mergesearch.search.problem.identity import REMEDY, Identity
from mergesearch.search.samplers.schedule import Strategy
from mergesearch.search.scoring.live_model import LiveModel, open_engine
from mergesearch.search.scoring.repair import repair_scores
from mergesearch.search.scoring.scorer import Scorer
from mergesearch.search.scoring.token_budget import RunBudget
from mergesearch.search.signal.signal import Signal
from mergesearch.search.study import trials as t
from mergesearch.search.study.environment import note_environment
from mergesearch.search.study.failures import stopped_by
from mergesearch.search.study.pareto import is_pareto
from mergesearch.search.study.run_folder import RECOVERED
from mergesearch.search.study.run_store import RunStore
from mergesearch.search.verdict.ensemble import ensemble_scores, search_value
from mergesearch.search.verdict.prospects import prospects
from mergesearch.search.verdict.recovered import RecoverySource
from mergesearch.steps import step


class Session:
    """One process's work on a run: what the objects of a search are made from, and the order of its stages."""

    def __init__(self, plan: SearchPlan, store: RunStore, watcher: Watcher = QUIET) -> None:
        self.plan, self.store, self._watcher = plan, store, watcher
        self._has_told_prospects = False
        self._signal_told: list[str] = []
        problem, config = plan.problem, plan.problem.config
        self.constraint_baselines = constraint_baselines(config.evaluate.constraints, plan.baselines)
        with step("reading models"):
            engine = open_engine(problem, plan.takes_gradients)
        self.budget = RunBudget(store.folder, config.evaluate, find_device(config.device), watcher.stage)
        engine.keep_recovered(store.folder.path / RECOVERED)
        self.live = LiveModel(engine, config.evaluate, self.budget.budget, store.folder.path)
        self.signal = Signal(problem.tasks, store, config.search.signal)
        self.scorer = Scorer(
            problem.tasks,
            self.live,
            self.budget,
            store,
            config.search.racing,
            config.search.seed,
            self.constraint_baselines,
            self.signal,
            config.search.trial_timeout,
        )

    def search(self) -> None:
        """Checks the tasks against the live model, and searches until the search has ended."""
        view = self._view()
        self._watcher.begun(view)
        self.prepare()
        with self.store.folder.locked():
            self._check_identity()
            note_environment(self.store.folder.path, find_device(self.plan.problem.config.device))
            repair_scores(self.store, self.plan.problem.tasks, self.scorer, self._watcher.stage)
        self.loop.run(lambda trial: self._told(view, trial))
        self._watcher.stage(f"the search has ended: {self.loop.ended}")

    def _told(self, view: RunView, trial: FrozenTrial) -> None:
        """Tells of a finished trial and, once the baselines are scored, of the signal and of what there is to win."""
        self._watcher.trial(view, trial)
        if self._baselines.are_scored(self.store.study):
            self._tell_signal()
        if not self._has_told_prospects and self._baselines.are_scored(self.store.study):
            self._has_told_prospects = True
            tasks, folder = self.plan.problem.tasks, self.store.folder
            self._score_ensemble()
            found = prospects(tasks, self.store, search_value(tasks, folder))
            for line in found.in_words if found else ():
                self._watcher.stage(line)

    def _score_ensemble(self) -> None:
        """Scores the average of the models' outputs on the search items, where the config asks for it."""
        if not self.plan.problem.config.evaluate.ensemble:
            return
        tasks, folder, members = self.plan.problem.tasks, self.store.folder, self.plan.baselines.members
        try:
            with step("scoring the ensemble"):
                ensemble_scores(tasks, folder, self.live.engine, members, "search")
        except Exception as error:  # the search goes on without it
            if stopped_by(error, folder.path):
                raise
            self._watcher.stage(f"the ensemble could not be scored: {in_words(error)}")

    def _tell_signal(self) -> None:
        """Tells how each task is read, and records it, where it has changed."""
        lines = [f"signal of {line}" for line in self.signal.described]
        if lines != self._signal_told:
            self._signal_told = lines
            self.store.study.set_user_attr(t.SIGNAL, lines)
            for line in lines:
                self._watcher.detail(line)

    @cached_property
    def _baselines(self) -> BaselineSource:
        return BaselineSource(self.plan.baselines, self.signal.told)

    def prepare(self) -> None:
        """Checks what is known with the live model alone, before anything is scored, and tells the user about it."""
        problem = self.plan.problem
        if problem.config.evaluate.compile and find_device(problem.config.device) == "cpu":
            self._watcher.stage("compile: has no effect on the CPU")
        for warning in self.plan.warnings:
            self._watcher.stage(f"warning: {warning}")
        for note in problem.recovery.notes if problem.recovery else ():
            self._watcher.stage(note)
        for note in problem.tasks.prepare(self.live.loaded):
            self._watcher.stage(note)
        self.budget.follow()
        if self._learner and self.plan.soups and self.plan.soups.takes_gradients:
            self._learner.check_gold()
        if self.gradient:
            self._watcher.stage(self.gradient.described(problem.tasks))

    def _check_identity(self) -> None:
        """Records what the run is about. Raises UserError where that is another than when the run was begun."""
        folder, has_trials = self.store.folder, bool(t.finished(self.store.study))
        before = folder.read_json(IDENTITY, Identity, REMEDY)
        now = Identity.of(self.plan.problem, before)
        changes = before.changes(now) if before and has_trials else []
        if changes:
            raise UserError(
                f"{folder.path}: was begun with other content: {'; '.join(changes)}; bring back what it was begun "
                "with, or give the new run another name with --name"
            )
        if has_trials and before is None:
            self._watcher.stage("the run was begun by a version that recorded no content: it is recorded, not compared")
        if before and now != before and not has_trials:
            folder.forget()
        self.live.contents = {name: content.tensors for name, content in now.checkpoints.items()}
        if now != before:
            folder.write_json(IDENTITY, asdict(now))

    @cached_property
    def loop(self) -> Loop:
        """The loop over this run's candidate sources."""
        problem, baselines = self.plan.problem, self._baselines
        sources, sampler = self._sources(baselines)
        stopping = None if problem.config.soup else problem.config.search
        asker = Asker(sources, sampler, self.signal.told)
        coordinates = Coordinates(problem.space, self.live.engine, self.scorer.phenotype)
        last = RecoverySource(problem.recovery, self.store, self.signal) if problem.recovery else None
        return Loop(
            problem.space, problem.tasks, self.store, self.scorer, asker, baselines, coordinates, stopping, last
        )

    def _sources(self, baselines: BaselineSource) -> tuple[list[Source], SamplerSource | None]:
        """In the order of their turns: baselines, soups, levels, gradient, centre, sampler."""
        problem, config = self.plan.problem, self.plan.problem.config
        sources: list[Source] = [baselines]
        if self.plan.soups and self._learner:
            seed, learn = config.search.seed, self._learner.learn
            sources.append(SoupSource(self.plan.soups, baselines, problem.tasks, self.store, self.signal, seed, learn))
        if config.soup:
            return sources, None
        if self.plan.levels:
            left, deepest = config.search.trials - len(self.plan.baselines), DEEPEST if self.gradient else None
            sources.append(CoarseToFine(problem.space, left, config.search.seed, deepest, self.signal.told))
        if self.gradient:
            sources.append(self.gradient)
        strategy = Strategy(problem.space, config.search, is_pareto(self.store.study), self.signal.item_scores)
        sampler = SamplerSource(strategy)
        return [*sources, CentreSource(strategy, config.search.trials, self.signal.told), sampler], sampler

    @cached_property
    def _learner(self) -> SoupLearner | None:
        seed = self.plan.problem.config.search.seed
        return SoupLearner(self.plan.soups, self.plan.problem.tasks, self.live, seed) if self.plan.soups else None

    @cached_property
    def gradient(self) -> GradientSource | None:
        """The gradient start, where there is one. Raises UserError where the config demands an impossible one."""
        if not self.plan.start.gradient:
            return None
        problem, search = self.plan.problem, self.plan.problem.config.search
        try:
            settings = search.gradient
            validation, say = Validation(problem.tasks, self.store.folder, search.seed), self._watcher.stage
            model, items = self.live.loaded, validation.followed
            loss = CalibrationLoss(problem.tasks, model, settings.items, settings.loss, search.seed, items)
            return GradientSource(
                problem.space, settings, loss, validation, self.live, self.store.folder, self.signal.best, say
            )
        except UserError as error:
            if search.start == "gradient":
                raise
            self._watcher.stage(f"no gradient start: {error}")
            return None

    def _view(self) -> RunView:
        return RunView(self.plan, self.store, self.scorer, str(self.live.engine.memory))
