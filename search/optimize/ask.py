"""Which candidate comes next, decided by the finished trials alone.

First the baselines that are not scored yet, then the soups that were asked for, then the usual settings of each method
in the space, then the points of the gradient start, then the sampler, seeded with the run's seed and the count of
trials that were begun. So a run that was killed and resumed asks for what it would have asked for otherwise.
"""

from functools import cached_property

import optuna
from optuna.trial import Trial, TrialState

from mergesearch.errors import UserError
from mergesearch.merge_ops.methods import Method, Scalar
from mergesearch.search.candidates.baselines import Baseline, usual_settings
from mergesearch.search.candidates.gradient.start import GradientStart
from mergesearch.search.candidates.soup_source import LearnedSoup
from mergesearch.search.samplers._study_views import StudyWithEstimates
from mergesearch.search.samplers.schedule import Strategy
from mergesearch.search.scoring.live_model import Bench
from mergesearch.search.study import trials as t
from mergesearch.search.study.pareto import is_pareto
from mergesearch.search.study.stopping import why_ended

Proposal = Baseline | LearnedSoup


class Asking:
    """Begins the trials of a study, in their order."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._are_baselines_done = False

    @cached_property
    def gradient(self) -> GradientStart | None:
        """What finds the points of the gradient start, where there is one."""
        bench = self._bench
        if not bench.job.start.gradient:
            return None
        try:
            return GradientStart(bench.job, bench.engine, bench.subject, bench.say)
        except UserError as error:
            if bench.job.config.search.start == "gradient":
                raise
            bench.say(f"no gradient start: {error}")
            return None

    @cached_property
    def _strategy(self) -> Strategy:
        job, several = self._bench.job, is_pareto(self._bench.study)
        return Strategy(job.space, job.config.search, several, gradient=self.gradient is not None)

    @property
    def ended(self) -> str | None:
        """Why no further trial is begun; None while the search goes on."""
        study, config = self._bench.study, self._bench.job.config
        if config.soup:
            return None if self._in_work() or self._proposed() else "every soup was made"
        if self._strategy.is_exhausted(study):
            return "every point of the grid was asked for"
        return why_ended(study, config.search, self.has_baselines())

    def ask(self) -> tuple[Trial, Proposal | None] | None:
        """The next trial, with its recipe where no sampler asks for it; None where it waits for other workers."""
        study = self._bench.study
        if study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            return self._ask_sampler(), None
        proposal = self._proposed()
        if proposal is None:
            if self._in_work() and not self._can_start_early():
                return None
            if not self._enqueue_start():
                self._enqueue_gradient()
            return self._ask_sampler(), None
        study.sampler = optuna.samplers.RandomSampler(seed=0)
        trial = study.ask()
        trial.set_user_attr(t.KIND, proposal.kind)
        trial.set_user_attr(t.NAME, proposal.name)
        return trial, proposal

    def has_baselines(self) -> bool:
        """Whether every baseline is scored."""
        if not self._are_baselines_done and not self._in_work():
            self._are_baselines_done = self._bench.job.baselines.following(self._baseline_scores()) is None
        return self._are_baselines_done

    def _proposed(self) -> Proposal | None:
        """What comes before the sampler's own candidates: the baselines, then the soups."""
        job, in_work = self._bench.job, self._in_work()
        baseline = job.baselines.following(self._baseline_scores(), in_work)
        return baseline or (job.soups.following(self._bench) if job.soups and not in_work else None)

    def _ask_sampler(self) -> Trial:
        study = self._bench.study
        study.sampler = self._strategy.sampler(study)
        return StudyWithEstimates(study).ask()

    def _in_work(self) -> set[str]:
        """The names of the baselines and soups that are being scored now, elsewhere."""
        running = [trial for trial in t.running(self._bench.study) if t.kind_of(trial) in t.NAMED]
        return {str(trial.user_attrs[t.NAME]) for trial in running if t.NAME in trial.user_attrs}

    def _can_start_early(self) -> bool:
        """Whether a usual setting, which depends on no score, is left, and the trials suffice for all baselines."""
        job = self._bench.job
        if job.soups:
            return False
        begun = t.begun(self._bench.study)
        missing = len(job.baselines) - sum(t.kind_of(trial) == t.BASELINE for trial in begun)
        return self._next_start() is not None and len(begun) + missing < job.config.search.trials

    def _next_start(self) -> Method | None:
        """The next method whose usual setting has no trial yet."""
        known = self._names(t.START)
        return next((method for method in self._bench.job.space.methods if method.name not in known), None)

    def _enqueue_start(self) -> bool:
        """Puts the next usual setting before whatever the sampler would ask, if there is one."""
        space, method = self._bench.job.space, self._next_start()
        if method is None:
            return False
        self._enqueue(t.START, method.name, space.start(method, usual_settings(len(space.models)).get(method.name, {})))
        return True

    def _enqueue_gradient(self) -> None:
        """The same with the points that gradients led to, which are found once and kept in the folder."""
        if self.gradient is None:
            return
        points, known = self.gradient.points(self._bench.study, self._bench.folder), self._names(t.GRADIENT)
        if name := next((name for name in points if name not in known), None):
            self._enqueue(t.GRADIENT, name, points[name])

    def _enqueue(self, kind: str, name: str, point: dict[str, Scalar]) -> None:
        self._bench.study.enqueue_trial(point, user_attrs={t.KIND: kind, t.NAME: name})

    def _baseline_scores(self) -> dict[str, float]:
        return {
            str(trial.user_attrs[t.NAME]): t.score_of(trial)
            for trial in t.finished(self._bench.study)
            if t.kind_of(trial) == t.BASELINE
        }

    def _names(self, kind: str) -> set[object]:
        trials = self._bench.study.get_trials(deepcopy=False)
        return {trial.user_attrs.get(t.NAME) for trial in trials if t.kind_of(trial) == kind}
