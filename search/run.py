"""A whole run: check, search, judge, write."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial

from mergesearch.errors import UserError, in_words
from mergesearch.files import atomic_path, is_disk_full, write_text
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.engine.engine import Engine, Uses, find_device
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.optimize.loop import Loop
from mergesearch.search.problem.problem import Job
from mergesearch.search.report.html import write_report
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_folder import RunFolder
from mergesearch.search.verdict.ensemble import reference_row
from mergesearch.search.verdict.judge import finalists, judge, recipe_of
from mergesearch.search.verdict.result import FRONT, Row, Verdict


@dataclass(frozen=True)
class Watcher:
    """What a run tells while it goes: a stage in words, and each finished trial."""

    stage: Callable[[str], None] = lambda _: None
    begun: Callable[[Loop], None] = lambda _: None
    trial: Callable[[Loop, FrozenTrial], None] = lambda *_: None


QUIET = Watcher()


def run(job: Job, results: Path, watcher: Watcher = QUIET) -> Verdict:
    """Runs the job, or goes on where a run of its name stopped, and leaves everything in ``results/NAME``.

    Written there: the resolved config, the study, per-item scores, ``best.yml`` (the search's winner),
    ``recommended.yml`` (the winner where it is proven to be better, else the best baseline), with several objectives
    ``front/NUMBER.yml`` (every candidate of the front, by its trial), ``verdict.json``, ``report.html`` and, unless the
    config says otherwise, the winner's ``model``. A run that has all its trials and its verdict already is only read:
    the test items are not looked at again.

    Where another process is at the same run, this one joins it: the two share its trials, and one of them concludes.
    Raises UserError where the disk is full; the run goes on afterwards.
    """
    folder = RunFolder(results / job.config.output.name)
    with _failures_told(folder), folder.joined() as others:
        if others:
            watcher.stage(f"joining {len(others)} other worker{'s' * (len(others) > 1)}: {', '.join(others)}")
        return _work(job, folder, watcher)


def _work(job: Job, folder: RunFolder, watcher: Watcher) -> Verdict:
    with folder.locked():
        study = folder.open_run(job.config, job.objectives)
    loop = Loop(job, folder, study, open_engine(job), watcher.stage)
    watcher.begun(loop)
    loop.prepare()
    loop.run(lambda trial: watcher.trial(loop, trial))
    watcher.stage(f"the search has ended: {loop.ended}")
    with folder.locked():
        return _conclude(loop, watcher)


@contextmanager
def _failures_told(folder: RunFolder) -> Iterator[None]:
    """Of the disk and the database, after which the run can be gone on with."""
    try:
        yield
    except Exception as error:
        reason = str(error.__cause__ if isinstance(error, StorageInternalError) else error).splitlines()[0]
        if is_disk_full(error):
            what, when = f"the disk is full ({reason})", "when there is space"
        elif isinstance(error, StorageInternalError):
            what, when = f"the database fails ({reason})", "when it answers"
        else:
            raise
        raise UserError(
            f"{folder.path}: {what}; every finished trial is kept, and the same command goes on from there {when}"
        ) from error


def open_engine(job: Job) -> Engine:
    """The engine with the job's checkpoints in memory, on the config's device."""
    methods = [*job.space.methods, *job.space.slice_methods.values()]
    dtype = job.config.recipe.get("out_dtype") or job.config.recipe.get("dtype")
    uses = Uses(methods, job.takes_gradients)
    return Engine(job.references, job.template, dtype, find_device(job.config.device), uses)


def _conclude(loop: Loop, watcher: Watcher) -> Verdict:
    earlier = loop.folder.read_json("verdict.json")
    count = len(t.finished(loop.study))
    if earlier is not None and earlier["trials"] == count and _is_written(loop, earlier):
        return Verdict.from_json(earlier)
    winner, baselines = finalists(loop)
    write_text(loop.folder.path / "best.yml", recipe_of(winner).to_yaml())
    watcher.stage("verdict: scoring the winner and the baselines on the test items")
    looks = loop.folder.note_look({"trials": count, "winner": winner.number})
    verdict = replace(judge(loop, looks), ended=loop.ended or "")
    recommended = winner if verdict.recommended == verdict.winner.name else t.best(baselines)
    _write_front(loop, verdict)
    write_text(loop.folder.path / "recommended.yml", recipe_of(recommended).to_yaml())
    if loop.job.config.evaluate.ensemble:
        watcher.stage("scoring the ensemble of the models")
        verdict = replace(verdict, ensemble=_reference(loop, watcher))
    if loop.job.config.output.model:
        watcher.stage("writing the winner's model")
        _write_model(loop, recipe_of(winner))
    loop.folder.write_json("verdict.json", verdict.to_json())
    write_report(loop, verdict)
    return verdict


def _write_front(loop: Loop, verdict: Verdict) -> None:
    """A recipe for each candidate of the front, and none of an earlier one."""
    if verdict.front is None:
        return
    trials = loop.study.get_trials(deepcopy=False)
    with atomic_path(loop.folder.path / FRONT) as folder:
        folder.mkdir()
        for member in verdict.front.members:
            (folder / Path(member.recipe).name).write_text(recipe_of(trials[member.trial]).to_yaml(), encoding="utf-8")


def _reference(loop: Loop, watcher: Watcher) -> Row | None:
    """None, and a message, where it cannot be had: it needs memory for all models at once."""
    try:
        return reference_row(loop)
    except Exception as error:  # the verdict holds without it
        watcher.stage(f"the ensemble could not be scored: {in_words(error)}")
        return None


def _write_model(loop: Loop, recipe: Recipe) -> None:
    """Writes the winner and holds the files against the live model: what was scored is what is saved."""
    folder = loop.folder.path / "model"
    loop.engine.build(recipe)
    loop.engine.write(recipe, folder)
    if Checkpoint(str(folder)).digest() != loop.engine.digest():
        raise RuntimeError(f"{folder}: differs from the model that was scored")


def _is_written(loop: Loop, verdict: Mapping[str, Any]) -> bool:
    asked = {"model": loop.job.config.output.model, FRONT: verdict.get("front")}
    names = ["best.yml", "recommended.yml", "report.html", *(name for name, wanted in asked.items() if wanted)]
    return all((loop.folder.path / name).exists() for name in names)
