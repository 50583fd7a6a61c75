"""A whole run: open, search, judge, write."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

from mergesearch.errors import DamagedFileError, UserError, in_words
from mergesearch.files import atomic_path, has_text, sync, write_text
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.engine.engine import find_device
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.candidates.baselines import BaselineSource, constraint_baselines
from mergesearch.search.candidates.gradient.calibration_loss import CalibrationLoss
from mergesearch.search.candidates.gradient.start import GradientSource
from mergesearch.search.candidates.learned_soup import SoupLearner
from mergesearch.search.candidates.plan import SearchPlan
from mergesearch.search.candidates.sampler_source import SamplerSource
from mergesearch.search.candidates.soup_source import SoupSource
from mergesearch.search.candidates.source import Source
from mergesearch.search.candidates.usual_settings import UsualSettings
from mergesearch.search.optimize.ask import Asker
from mergesearch.search.optimize.callbacks import QUIET, RunView, Watcher
from mergesearch.search.optimize.loop import Loop
from mergesearch.search.problem.identity import FILE as IDENTITY
from mergesearch.search.problem.identity import REMEDY, Identity
from mergesearch.search.report.html import is_whole_report, write_report
from mergesearch.search.samplers.schedule import Strategy
from mergesearch.search.scoring.live_model import LiveModel, open_engine
from mergesearch.search.scoring.repair import repair_scores
from mergesearch.search.scoring.scorer import Scorer
from mergesearch.search.scoring.token_budget import RunBudget
from mergesearch.search.study import trials as t
from mergesearch.search.study.failures import stopped_by
from mergesearch.search.study.pareto import is_pareto
from mergesearch.search.study.run_folder import RunFolder
from mergesearch.search.study.run_store import RunStore
from mergesearch.search.verdict.ensemble import ensemble_row
from mergesearch.search.verdict.finalists import decision, finalists
from mergesearch.search.verdict.judge import Judge
from mergesearch.search.verdict.result import FRONT, VERDICT, CandidateRow, Verdict, read_verdict


def run(plan: SearchPlan, results: Path, watcher: Watcher = QUIET) -> Verdict:
    """Runs a search, or resumes the run of its name, and leaves everything in ``results/NAME``.

    Written there: the resolved config, the study, per-item scores, ``best.yml`` (the search's winner),
    ``recommended.yml`` (the winner where it is proven to be better, else the best baseline), with several objectives
    ``front/NUMBER.yml`` (every candidate of the front, by its trial), ``verdict.json``, ``report.html`` and, unless the
    config says otherwise, the winner's ``model``. A run that has all its trials and its verdict is only read: the test
    items are not looked at again. So is a run in a folder that this user may not write to.

    Where another process works on the same run, this one joins it: the two share its trials, and one of them concludes.
    Raises UserError where the disk is full or the database fails; the run can be resumed afterwards.
    """
    folder = RunFolder(results / plan.problem.config.output.name, watcher.stage)
    if not folder.is_writable:
        return _read(folder, plan, watcher)
    with _failures_told(folder), folder.joined() as others:
        if others:
            watcher.stage(f"joining {len(others)} other worker{'s' * (len(others) > 1)}: {', '.join(others)}")
        with folder.locked():
            config = plan.problem.config
            study = folder.open_run(config.dump(), config.search.storage, plan.problem.tasks.directions)
        session = Session(plan, RunStore(folder, study, plan.problem.tasks.items("search")), watcher)
        session.search()
        with folder.locked():
            return session.conclude()


def _read(folder: RunFolder, plan: SearchPlan, watcher: Watcher) -> Verdict:
    """The verdict of a finished run that this user may only read. Raises UserError where it has none."""
    folder.check_read(plan.problem.config.dump())
    verdict = read_verdict(folder)
    if verdict is None:
        raise UserError(f"{folder.path}: has no verdict yet, and cannot be gone on with: this user may only read it")
    watcher.stage(f"{folder.path}: is only read: this user may not write there")
    return verdict


@contextmanager
def _failures_told(folder: RunFolder) -> Iterator[None]:
    """Turns failures that concern the whole run, after which it can be resumed, into UserError."""
    try:
        yield
    except Exception as error:
        stop = stopped_by(error, folder.path)
        if stop is None or stop is error:
            raise
        raise stop from error


class Session:
    """One process's work on a run: what the objects of a search are made from, and the order of its stages."""

    def __init__(self, plan: SearchPlan, store: RunStore, watcher: Watcher = QUIET) -> None:
        self.plan, self.store, self._watcher = plan, store, watcher
        problem, config = plan.problem, plan.problem.config
        self.constraint_baselines = constraint_baselines(config.evaluate.constraints, plan.baselines)
        engine = open_engine(problem, plan.takes_gradients)
        self.budget = RunBudget(store.folder, config.evaluate, find_device(config.device), watcher.stage)
        self.live = LiveModel(engine, config.evaluate, self.budget.budget, store.folder.path)
        self.scorer = Scorer(
            problem.tasks,
            self.live,
            self.budget,
            store,
            config.search.racing,
            config.search.seed,
            self.constraint_baselines,
            config.search.trial_timeout,
        )

    def search(self) -> None:
        """Checks the tasks against the live model, and searches until the search has ended."""
        view = self._view()
        self._watcher.begun(view)
        self.prepare()
        with self.store.folder.locked():
            self._check_identity()
            repair_scores(self.store, self.plan.problem.tasks, self.scorer, self._watcher.stage)
        self.loop.run(lambda trial: self._watcher.trial(view, trial))
        self._watcher.stage(f"the search has ended: {self.loop.ended}")

    def prepare(self) -> None:
        """Checks what is known with the live model alone, before anything is scored, and tells the user about it."""
        problem = self.plan.problem
        if problem.config.evaluate.compile and find_device(problem.config.device) == "cpu":
            self._watcher.stage("compile: has no effect on the CPU")
        for warning in self.plan.warnings:
            self._watcher.stage(f"warning: {warning}")
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
        problem, baselines = self.plan.problem, BaselineSource(self.plan.baselines)
        sources, sampler = self._sources(baselines)
        stopping = None if problem.config.soup else problem.config.search
        asker = Asker(sources, sampler)
        return Loop(problem.space, problem.tasks, self.store, self.scorer, asker, baselines, stopping)

    def _sources(self, baselines: BaselineSource) -> tuple[list[Source], SamplerSource | None]:
        """In the order of their turns: baselines, soups, usual settings, gradient, sampler."""
        problem, config = self.plan.problem, self.plan.problem.config
        sources: list[Source] = [baselines]
        if self.plan.soups and self._learner:
            seed, learn = config.search.seed, self._learner.learn
            sources.append(SoupSource(self.plan.soups, baselines, problem.tasks, self.store, seed, learn))
        if config.soup:
            return sources, None
        reserved = None if self.plan.soups else len(self.plan.baselines)
        sources.append(UsualSettings(problem.space, config.search.trials, reserved))
        if self.gradient:
            sources.append(self.gradient)
        several, is_descending = is_pareto(self.store.study), self.gradient is not None
        sampler = SamplerSource(Strategy(problem.space, config.search, several, gradient=is_descending))
        return [*sources, sampler], sampler

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
            loss = CalibrationLoss(problem.tasks, self.live.loaded, settings.items, settings.loss, search.seed)
            return GradientSource(problem.space, settings, loss, self.live, self.store.folder, self._watcher.stage)
        except UserError as error:
            if search.start == "gradient":
                raise
            self._watcher.stage(f"no gradient start: {error}")
            return None

    def _view(self) -> RunView:
        problem, search = self.plan.problem, self.plan.problem.config.search
        memory = str(self.live.engine.memory)
        races = bool(search.racing)
        return RunView(problem.tasks, self.store, self.scorer, self.plan.trials, races, search.seed, memory)

    def conclude(self) -> Verdict:
        """Judges the finalists and writes what the run leaves; reads it where it is written already."""
        return Conclusion(self, self._watcher).write()


@dataclass(frozen=True)
class Conclusion:
    """The end of a run: the verdict, and everything that is written with it."""

    session: Session
    watcher: Watcher

    def write(self) -> Verdict:
        """The verdict, with recipes, report and model written beside it."""
        session, store, folder = self.session, self.session.store, self.session.store.folder
        config, count = session.plan.problem.config, len(t.finished(store.study))
        earlier = self._earlier()
        if earlier is not None and earlier.trials == count and self._is_written(earlier):
            return earlier
        winner, _ = finalists(store)
        write_text(folder.path / "best.yml", t.recipe_of(winner).to_yaml())
        self.watcher.stage("verdict: scoring the winner and the baselines on the test items")
        looks = folder.note_look({"trials": count, **decision(store, session.plan.problem.tasks)})
        warnings = session.plan.problem.warnings
        verdict = replace(self._judge(looks), ended=session.loop.ended or "", warnings=warnings)
        trials = store.study.get_trials(deepcopy=False)
        winner, recommended = trials[verdict.winner.trial], trials[verdict.recommended_row.trial]
        write_text(folder.path / "best.yml", t.recipe_of(winner).to_yaml())
        self._write_front(verdict)
        write_text(folder.path / "recommended.yml", t.recipe_of(recommended).to_yaml())
        if config.evaluate.ensemble:
            self.watcher.stage("scoring the ensemble of the models")
            verdict = replace(verdict, ensemble=self._ensemble())
        if config.output.model:
            self.watcher.stage("writing the winner's model")
            self._write_model(t.recipe_of(winner))
        folder.write_json(VERDICT, verdict.to_json())
        write_report(store, verdict)
        return verdict

    def _earlier(self) -> Verdict | None:
        """The verdict that the folder has; None where it has none, or a damaged one, which is written anew."""
        try:
            return read_verdict(self.session.store.folder)
        except DamagedFileError as error:
            self.watcher.stage(str(error))
            return None

    def _judge(self, earlier_looks: int) -> Verdict:
        session = self.session
        tasks, seed = session.plan.problem.tasks, session.plan.problem.config.search.seed
        return Judge(tasks, session.store, session.scorer, session.constraint_baselines, seed).judge(earlier_looks)

    def _write_front(self, verdict: Verdict) -> None:
        """A recipe for each candidate of the front, in place of those of an earlier one."""
        if verdict.front is None:
            return
        trials = self.session.store.study.get_trials(deepcopy=False)
        with atomic_path(self.session.store.folder.path / FRONT) as folder:
            folder.mkdir()
            for member in verdict.front.members:
                text = t.recipe_of(trials[member.trial]).to_yaml()
                (folder / Path(member.recipe).name).write_text(text, encoding="utf-8")

    def _ensemble(self) -> CandidateRow | None:
        """None, and a message, where it cannot be scored: it needs memory for all models at once."""
        session = self.session
        problem, members = session.plan.problem, session.plan.baselines.members
        try:
            seed = problem.config.search.seed
            return ensemble_row(problem.tasks, session.store.folder, session.live.engine, members, seed)
        except Exception as error:  # the verdict holds without it
            if stopped_by(error, session.store.folder.path):
                raise
            self.watcher.stage(f"the ensemble could not be scored: {in_words(error)}")
            return None

    def _write_model(self, recipe: Recipe) -> None:
        """Writes the winner and compares the files with the live model: what was scored is what is saved."""
        folder, engine = self.session.store.folder.path / "model", self.session.live.engine
        engine.build(recipe)
        engine.write(recipe, folder)
        if Checkpoint(str(folder)).digest() != engine.digest():
            raise RuntimeError(f"{folder}: differs from the model that was scored")
        sync(folder)

    def _is_written(self, verdict: Verdict) -> bool:
        """Whether the folder has all that belongs to its verdict, and no file of it is cut."""
        store, config = self.session.store, self.session.plan.problem.config
        folder, trials = store.folder.path, store.study.get_trials(deepcopy=False)
        recipes = {"best.yml": verdict.winner.trial, "recommended.yml": verdict.recommended_row.trial}
        recipes |= {member.recipe: member.trial for member in (verdict.front.members if verdict.front else ())}
        return (
            all(has_text(folder / name, t.recipe_of(trials[number]).to_yaml()) for name, number in recipes.items())
            and is_whole_report(folder)
            and (not config.output.model or _is_model(folder / "model"))
        )


def _is_model(folder: Path) -> bool:
    """Whether a folder has a checkpoint whose headers can be read."""
    try:
        return folder.is_dir() and bool(Checkpoint(str(folder)).tensors)
    except UserError:
        return False
