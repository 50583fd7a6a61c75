"""A whole run: open, search, judge, write."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from mergesearch.errors import DamagedFileError, UserError, in_words
from mergesearch.files import atomic_path, has_text, sync, write_text
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.engine.documents import documents_text
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.across.documents import DOCUMENTS, write_documents
from mergesearch.search.across.finalists import FINALISTS, Finalists, write_finalists
from mergesearch.search.candidates.plan import SearchPlan
from mergesearch.search.config import Config
from mergesearch.search.optimize.callbacks import QUIET, Watcher
from mergesearch.search.optimize.tracking import tracked
from mergesearch.search.optimize.underway import underway
from mergesearch.search.problem.origins import from_checkpoints
from mergesearch.search.report.dashboard import fill_dashboard, has_report
from mergesearch.search.report.html import is_whole_report, write_report
from mergesearch.search.report.hub_card import write_hub_card
from mergesearch.search.report.run_log import logged
from mergesearch.search.scoring.threads import chosen_threads
from mergesearch.search.session import Session
from mergesearch.search.study import trials as t
from mergesearch.search.study.exchange import LostError
from mergesearch.search.study.failures import stopped_by
from mergesearch.search.study.model_files import FILE as MODEL_FILES
from mergesearch.search.study.model_files import MODEL, ModelFiles
from mergesearch.search.study.opening import open_run
from mergesearch.search.study.run_folder import RunFolder
from mergesearch.search.study.run_store import RunStore
from mergesearch.search.verdict.ending import ending_of
from mergesearch.search.verdict.ensemble import difference_from_ensemble, ensemble_row, search_value
from mergesearch.search.verdict.finalists import decision, finalists
from mergesearch.search.verdict.judge import Judge
from mergesearch.search.verdict.layers import LAYERS, write_layers
from mergesearch.search.verdict.outlook import Prospects
from mergesearch.search.verdict.prospects import prospects
from mergesearch.search.verdict.result import FRONT, CandidateRow, Verdict, read_verdict, write_verdict
from mergesearch.search.verdict.wording import UNJUDGED, best_comment, recommended_comment
from mergesearch.seeds import derive
from mergesearch.steps import step
from mergesearch.text import as_line


def run(plan: SearchPlan, results: Path, watcher: Watcher = QUIET) -> Verdict:
    """Runs a search, or resumes the run of its name, and leaves everything in ``results/NAME``.

    Written there: the resolved config, the study, per-item scores, ``best.yml`` (the best candidate of the search),
    ``recommended.yml`` (the same where it is proven to be better, else the best baseline), with several objectives
    ``front/NUMBER.yml`` (every candidate of the front, by its trial), ``verdict.json``, ``report.html`` and, unless the
    config says otherwise, the recommended ``model``. A run that has all its trials and its verdict is only read: the
    test items are not looked at again. So is a run in a folder that this user may not write to.

    Where ``search.artifacts`` says that the run's files are elsewhere, the folder follows them.

    Where another process works on the same run, this one joins it: the two share its trials, and one of them concludes.
    Raises UserError where the disk is full or the database fails; the run can be resumed afterwards.
    """
    config = plan.problem.config
    folder = results / config.output.name
    with follower(config, folder):
        return work_here(plan, folder, watcher)


def follower(config: Config, folder: Path, without: tuple[str, ...] = ()) -> AbstractContextManager[None]:
    """Lets the run's folder of this host follow the run, where its files are elsewhere; see ``Mirror``."""
    storage, artifacts = config.search.storage, config.search.artifacts
    if not artifacts:
        return nullcontext()
    from mergesearch.search.study.elsewhere import mirrored

    return mirrored(str(storage), artifacts, folder, without)


def work_here(plan: SearchPlan, folder: Path, watcher: Watcher = QUIET) -> Verdict:
    """One worker's part in the run in a folder, or in one whose files are elsewhere.

    There, a worker that was taken for dead joins the run again.
    """
    search, name = plan.problem.config.search, plan.problem.config.output.name
    if not search.artifacts:
        return work(RunFolder(folder, watcher.stage), plan, watcher)
    from mergesearch.search.study.elsewhere import replicated

    while True:
        try:
            with replicated(str(search.storage), search.artifacts, name, watcher.stage) as replica:
                return work(replica, plan, watcher)
        except LostError as error:
            watcher.stage(f"{error}: it joins again")


def work(folder: RunFolder, plan: SearchPlan, watcher: Watcher = QUIET) -> Verdict:
    """What ``run`` does, in the run's folder, or in a replica of it."""
    if not folder.is_writable:
        return _read(folder, plan, watcher)
    config = plan.problem.config
    with (
        _failures_told(folder),
        folder.joined() as others,
        logged(folder.path, watcher) as log,
        tracked(folder, config.track, config.dump(), log) as told,
        underway(folder, plan, told) as listener,
        chosen_threads(config.threads, listener.stage),
    ):
        return _joined(folder, plan, listener, others)


def _joined(folder: RunFolder, plan: SearchPlan, watcher: Watcher, others: Sequence[str]) -> Verdict:
    """A worker's part in a run that it has joined, beside ``others``."""
    if others:
        watcher.stage(f"joining {len(others)} other worker{'s' * (len(others) > 1)}: {', '.join(others)}")
    with folder.locked():
        config = plan.problem.config
        study = open_run(folder, config.dump(), config.search.storage, plan.problem.tasks.directions)
    session = Session(plan, RunStore(folder, study, plan.problem.tasks.items("search")), watcher)
    session.search()
    with folder.locked():
        verdict = Conclusion(session, watcher).write()
    watcher.concluded(ending_of(verdict, folder.path))
    return verdict


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
        if stop is None or stop is error or isinstance(error, LostError):
            raise
        raise stop from error


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
        winner, _ = finalists(store, session.signal)
        write_text(folder.path / "best.yml", _text(t.recipe_of(winner), UNJUDGED))
        self.watcher.stage("verdict: scoring the winner and the baselines on the test items")
        looks = folder.note_look({"trials": count, **decision(store, session.plan.problem.tasks, session.signal)})
        warnings = session.plan.problem.warnings
        verdict = replace(self._judge(looks), ended=session.loop.ended or "", warnings=warnings)
        verdict = replace(verdict, prospects=self._prospects())
        self._write_recipes(verdict)
        if config.evaluate.ensemble:
            with self._stage("scoring the ensemble of the models"):
                verdict = self._beside_ensemble(replace(verdict, ensemble=self._ensemble()))
        engine, tasks = session.live.engine, session.plan.problem.tasks
        write_documents(tasks, folder.path)
        tested = write_finalists(tasks, store, verdict, engine.parameters, session.live.contents)
        if config.output.model:
            with self._stage(f"writing the recommended model, {verdict.recommended}"):
                self._write_model(verdict, tested)
        self._write_layers(verdict)
        write_verdict(folder, verdict)
        write_report(store, verdict)
        fill_dashboard(store, verdict)
        return verdict

    @contextmanager
    def _stage(self, text: str) -> Iterator[None]:
        self.watcher.stage(text)
        with step(text):
            yield

    def _recipe(self, trial: int) -> Recipe:
        return t.recipe_of(self.session.store.study.get_trials(deepcopy=False)[trial])

    def _write_recipes(self, verdict: Verdict) -> None:
        folder = self.session.store.folder.path
        self._write_front(verdict)
        for name, text in self._recipes(verdict).items():
            write_text(folder / name, text)

    def _recipes(self, verdict: Verdict) -> dict[str, str]:
        """The two recipes that a run hands over, by the names of their files, with comments."""
        return {
            "best.yml": _text(self._recipe(verdict.winner.trial), best_comment(verdict)),
            "recommended.yml": _text(self._recipe(verdict.recommended_row.trial), recommended_comment(verdict)),
        }

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
        return Judge(tasks, session.store, session.scorer, session.signal, session.constraint_baselines, seed).judge(
            earlier_looks
        )

    def _write_front(self, verdict: Verdict) -> None:
        """A recipe for each candidate of the front, in place of those of an earlier one."""
        if verdict.front is None:
            return
        with atomic_path(self.session.store.folder.path / FRONT) as folder:
            folder.mkdir()
            for member in verdict.front.members:
                text = _text(self._recipe(member.trial))
                (folder / Path(member.recipe).name).write_text(text, encoding="utf-8")

    def _prospects(self) -> Prospects | None:
        tasks, store = self.session.plan.problem.tasks, self.session.store
        return prospects(tasks, store, search_value(tasks, store.folder))

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

    def _beside_ensemble(self, verdict: Verdict) -> Verdict:
        """The verdict, with the difference of the recovered winner from the ensemble."""
        if verdict.recovery is None or verdict.ensemble is None:
            return verdict
        store, problem = self.session.store, self.session.plan.problem
        trial = store.study.get_trials(deepcopy=False)[verdict.recovery.row.trial]
        name = t.side_name("test", trial.user_attrs[t.PHENOTYPE])
        scores = store.folder.load_scores(name, problem.tasks.items("test"))
        seed = derive(problem.config.search.seed, "sign flips")
        difference = difference_from_ensemble(problem.tasks, store.folder, scores, seed)
        return replace(verdict, recovery=replace(verdict.recovery, from_ensemble=difference))

    def _write_model(self, verdict: Verdict, tested: Finalists) -> None:
        """Writes a model and compares the files with the live model: what was scored is what is saved."""
        run, engine, config = self.session.store.folder.path, self.session.live.engine, self.session.plan.problem.config
        folder, row = run / MODEL, verdict.recommended_row
        recipe = self._recipe(row.trial)
        engine.build(recipe)
        engine.write(recipe, folder, _text(recipe))
        write_hub_card(folder, tested, verdict, row, config)
        files = ModelFiles.of(folder, row.trial)
        if files.tensors != engine.digest():
            raise RuntimeError(f"{folder}: differs from the model that was scored")
        files.write(self.session.store.folder)
        sync(folder)

    def _write_layers(self, verdict: Verdict) -> None:
        """Writes which layers of the recommended model, which was built last, and of the winner come from whom."""
        session, rows = self.session, (verdict.recommended_row, verdict.winner)
        recipes = {(row.trial, row.name): self._recipe(row.trial) for row in rows}
        write_layers(session.store.folder.path, session.live.engine, recipes, session.plan.problem.space.base)

    def _is_written(self, verdict: Verdict) -> bool:
        """Whether the folder has all that belongs to its verdict, and no file of it is cut."""
        folder, config = self.session.store.folder.path, self.session.plan.problem.config
        front = {member.recipe: member.trial for member in (verdict.front.members if verdict.front else ())}
        numbers = [verdict.winner.trial, verdict.recommended_row.trial, *front.values()]
        trials = self.session.store.study.get_trials(deepcopy=False)
        return (
            all(number < len(trials) and t.RECIPE in trials[number].user_attrs for number in numbers)
            and all(has_text(folder / name, text) for name, text in self._recipes(verdict).items())
            and all(has_text(folder / name, _text(self._recipe(number))) for name, number in front.items())
            and is_whole_report(folder)
            and has_report(self.session.store)
            and all((folder / name).is_file() for name in (FINALISTS, DOCUMENTS, LAYERS))
            and (
                not config.output.model
                or (
                    (folder / MODEL_FILES).is_file()
                    and _is_model(folder / MODEL, Checkpoint(self.session.plan.problem.template).has_config)
                )
            )
        )


def _text(recipe: Recipe, comment: Sequence[str] = ()) -> str:
    """The recipe as it is written: with those of its models that are merges of other runs, after a comment."""
    return "".join(f"# {as_line(line)}\n" for line in comment) + documents_text(from_checkpoints(recipe))


def _is_model(folder: Path, has_config: bool) -> bool:
    """Whether a folder has a checkpoint whose headers can be read, and a config if the models have one."""
    try:
        checkpoint = Checkpoint(str(folder))
        return folder.is_dir() and bool(checkpoint.tensors) and checkpoint.has_config == has_config
    except UserError:
        return False
