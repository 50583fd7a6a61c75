"""The loop: ask, build, score, tell, until the run has its trials. A run may be killed at any instant and gone on with.

The order of candidates depends on the finished trials alone: the baselines that are not scored yet, then the usual
settings of each method in the space, then the sampler, seeded with the run's seed and the count of finished trials.
So a run that was killed and resumed asks for what it would have asked for otherwise.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from mergesearch.errors import UserError
from mergesearch.evaluators import LoadedModel
from mergesearch.merge_ops.engine import Engine
from mergesearch.merge_ops.recipe import Recipe
from mergesearch.search import trials as t
from mergesearch.search.baselines import usual_settings
from mergesearch.search.job import Job, Scores, live_model
from mergesearch.search.samplers import SEQUENCES, choose, make_sampler
from mergesearch.search.store import RunFolder
from mergesearch.seeds import derive


@dataclass(frozen=True)
class Scored:
    """A candidate's per-item scores, its phenotype, and how long building and scoring took."""

    phenotype: str
    scores: Scores
    seconds: dict[str, float]


class Loop:
    """One run of a job. ``study`` is all that it remembers, with the per-item scores in ``folder``."""

    def __init__(self, job: Job, folder: RunFolder, study: Study, engine: Engine) -> None:
        self.job = job
        self.folder = folder
        self.study = study
        self.engine = engine
        self._items = {task.name: task.search for task in job.tasks}
        self._scored_model = live_model(engine.model, job.config.evaluate, lambda: engine.built)

    @property
    def subject(self) -> LoadedModel:
        """The live model as evaluators take it."""
        return LoadedModel(self._scored_model, self.engine.tokenizer, self.engine.save)

    def run(self, on_trial: Callable[[FrozenTrial], None] = lambda _: None) -> None:
        """Goes on until the study has the config's trials, all told; ``on_trial`` sees each finished one."""
        self._recover()
        while len(t.finished(self.study)) < self.job.config.search.trials:
            number = self.run_trial()
            on_trial(self.study.get_trials(deepcopy=False)[number])
        if not t.completed(self.study):
            reason = t.finished(self.study)[0].user_attrs[t.REASON]
            raise UserError(f"no candidate could be scored; the first one's reason: {reason}")

    def run_trial(self) -> int:
        """One trial from ask to tell; its number."""
        trial, baseline = self._ask()
        try:
            recipe = baseline or self.job.space.ask(trial)
            trial.set_user_attr(t.RECIPE, recipe.to_yaml())
            scored = self._score(recipe)
        except Exception as error:
            # Whatever goes wrong with one candidate is its own affair: NaN, out of memory, a task's exception.
            trial.set_user_attr(t.REASON, f"{type(error).__name__}: {error}")
            self.study.tell(trial, state=TrialState.FAIL)
            return trial.number
        self._tell(trial, scored)
        return trial.number

    def _ask(self) -> tuple[Trial, Recipe | None]:
        baseline = self.job.baselines.following(self._baseline_scores())
        if baseline is None:
            self._enqueue_start()
            self.study.sampler = self._sampler()
            return self.study.ask(), None
        self.study.sampler = optuna.samplers.RandomSampler(seed=0)
        trial = self.study.ask()
        trial.set_user_attr(t.KIND, t.BASELINE)
        trial.set_user_attr(t.NAME, baseline.name)
        return trial, baseline.recipe

    def _sampler(self) -> optuna.samplers.BaseSampler:
        search = self.job.config.search
        name = choose(self.job.space, search.trials)[0] if search.sampler == "auto" else search.sampler
        place = () if name in SEQUENCES else (len(t.finished(self.study)),)
        return make_sampler(name, derive(search.seed, "sampler", *place))

    def _enqueue_start(self) -> None:
        """Puts the next usual setting that has no trial yet before whatever the sampler would ask."""
        space, known = self.job.space, self._names(t.START)
        for method in space.methods:
            if method.name not in known:
                point = space.start(method, usual_settings(len(space.models)).get(method.name, {}))
                self.study.enqueue_trial(point, user_attrs={t.KIND: t.START, t.NAME: method.name})
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

    def _score(self, recipe: Recipe) -> Scored:
        phenotype = recipe.phenotype(self.engine.names)
        known = self._scored_before(phenotype)
        if known is not None:
            return Scored(phenotype, known, {"build": 0.0, "score": 0.0})
        begin = time.perf_counter()
        self.engine.build(recipe)
        built = time.perf_counter()
        scores = self.job.score(self.subject, "search", self.job.tasks_of("search"))
        return Scored(phenotype, scores, {"build": built - begin, "score": time.perf_counter() - built})

    def _scored_before(self, phenotype: str) -> Scores | None:
        for trial in t.completed(self.study):
            name = t.scores_name(trial.number)
            if trial.user_attrs.get(t.PHENOTYPE) == phenotype and self.folder.has_scores(name):
                return self.folder.load_scores(name)
        return None

    def _tell(self, trial: Trial, scored: Scored) -> None:
        self.folder.save_scores(t.scores_name(trial.number), scored.scores, self._items)
        trial.set_user_attr(t.PHENOTYPE, scored.phenotype)
        trial.set_user_attr(t.VALUES, self.job.values("search", scored.scores))
        trial.set_user_attr(t.SECONDS, scored.seconds)
        self.study.tell(trial, self.job.objective("search", scored.scores))

    def _recover(self) -> None:
        """Ends the trials whose process was killed, and enqueues what they asked for again, once each."""
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        retried = {trial.user_attrs.get(t.RETRY_OF) for trial in self.study.get_trials(deepcopy=False)}
        for trial in running:
            wish = t.wish_of(trial)
            if wish and trial.number not in retried:
                kept = {key: trial.user_attrs[key] for key in (t.KIND, t.NAME) if key in trial.user_attrs}
                self.study.enqueue_trial(wish, user_attrs={**kept, t.RETRY_OF: trial.number})
            self._mark_interrupted(trial)

    def _mark_interrupted(self, trial: FrozenTrial) -> None:
        self.study._storage.set_trial_user_attr(trial._trial_id, t.REASON, t.INTERRUPTED)
        self.study.tell(trial.number, state=TrialState.FAIL)
