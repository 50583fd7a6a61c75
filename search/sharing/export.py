"""Files of a finished run for other programs: the samples of lm-eval's viewers, and GGUF for llama.cpp."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mergesearch.errors import UserError, in_words
from mergesearch.evaluators.lm_eval.lm_eval import LmEval
from mergesearch.files import atomic_path
from mergesearch.merge_ops.engine.engine import check_output
from mergesearch.merge_ops.output.gguf import convert, write_gguf
from mergesearch.say import Say, silent
from mergesearch.search.across.finalists import Finalists
from mergesearch.search.candidates.plan import open_plan
from mergesearch.search.optimize.callbacks import Watcher
from mergesearch.search.problem.problem import read_config
from mergesearch.search.problem.tasks import Task
from mergesearch.search.session import Session
from mergesearch.search.sharing.push import model_of
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_folder import CONFIG, RunFolder
from mergesearch.search.study.run_store import RunStore
from mergesearch.search.verdict.result import CandidateRow, Verdict, held_verdict, shown_name
from mergesearch.search.verdict.wording import shown_baselines
from mergesearch.trust import trust_code


def export_logs(run: Path, out: Path, say: Say = silent) -> list[Path]:
    """Writes what ``lm_eval --log_samples`` would write of the run's winner and baselines, on the test items.

    The models are built and scored again: a run keeps scores and not all that lm-eval logs. Each has a folder in
    ``out``. The bytes are the same each time.

    Args:
        run: the folder of a finished run.
        out: the folder, which must not exist or be empty.
        say: hears of what takes time.

    Returns:
        The folders that were written.

    Raises:
        UserError: the run has no verdict, or no task of lm-eval with test items, or ``out`` is not empty.
    """
    check_output(out)
    folder, verdict = RunFolder(run, say), held_verdict(run)
    config = read_config(run / CONFIG)
    with trust_code(config.trust):
        plan = open_plan(config, str(run / CONFIG))
        tasks = [task for task in plan.problem.tasks if isinstance(task.evaluator, LmEval) and task.test]
        if not tasks:
            raise UserError(f"{run}: has no task of lm-eval with test items")
        study = folder.open_study(config.search.storage, plan.problem.tasks.directions)
        store = RunStore(folder, study, plan.problem.tasks.items("search"))
        session = Session(plan, store, Watcher(say))
        session.prepare()
        with atomic_path(out) as temporary:
            names = [_write(session, row, tasks, temporary, say) for row in _rows(verdict, Finalists.read(run))]
    return [out / name for name in names]


def export_gguf(  # noqa: PLR0913 - what a file is made from
    model: Path, out: Path, kind: str, *, what: str = "recommended", converter: Path | None = None, say: Say = silent
) -> None:
    """Writes a model as a GGUF file.

    Args:
        model: the folder of a finished run, or of a model.
        out: the file, which must not exist.
        kind: the type of its matrices: f32, f16, bf16 or q8_0.
        what: of a run, ``recommended`` or ``best``.
        converter: llama.cpp's ``convert_hf_to_gguf.py``, to use in place of what is known here.
        say: hears of what takes time.

    Raises:
        UserError: there is no such model, it is not known how to write it, or the file exists.
    """
    with _model(model, what, say) as (folder, name):
        say(f"writing {out}")
        if converter is not None:
            convert(converter, folder, out, kind)
        else:
            write_gguf(folder, out, kind, name)


@contextmanager
def _model(path: Path, what: str, say: Say) -> Iterator[tuple[Path, str]]:
    """The folder of a model, and what it is called."""
    if not (path / CONFIG).is_file():
        yield path, path.absolute().name
        return
    with model_of(RunFolder(path, say), held_verdict(path), what, say) as (folder, _):
        yield folder, path.absolute().name


def _rows(verdict: Verdict, finalists: Finalists) -> Iterator[tuple[CandidateRow, str]]:
    """Yields the winner and the baselines that the report shows, each with the time of its trial."""
    for row in (verdict.winner, *shown_baselines(verdict)):
        scored = finalists.candidate(row.trial).scored
        yield row, scored.replace(":", "-")


def _write(session: Session, row: tuple[CandidateRow, str], tasks: list[Task], out: Path, say: Say) -> str:
    """Writes the logs of one candidate; returns the name of its folder."""
    from mergesearch.evaluators.lm_eval.sample_writer import folder_name, write_logs

    candidate, date = row
    say(f"scoring {candidate.name}")
    trial = session.store.study.get_trials(deepcopy=False)[candidate.trial]
    session.live.engine.build(t.recipe_of(trial))
    logs, groups = [], dict[str, Any]()
    for task in tasks:
        assert isinstance(task.evaluator, LmEval)
        try:
            found, group = task.evaluator.logs(session.live.loaded, task.test)
        except Exception as error:
            raise UserError(f"{candidate.name}: task {task.name!r} cannot be scored: {in_words(error)}") from error
        logs += found
        groups |= group
    name = folder_name(candidate.name)
    write_logs(out / name, f"{session.store.folder.path.name}: {shown_name(candidate)}", date, logs, groups)
    return name
