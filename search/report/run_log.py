"""The log of a run: what its watcher is told, line by line with the time and the process, in the run's folder."""

import logging
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from mergesearch.errors import in_words
from mergesearch.search.optimize.callbacks import RunView, Watcher
from mergesearch.search.study import trials as t
from mergesearch.text import as_line

LOG = "run.log"
FORMAT = "%(asctime)s %(process)d %(levelname)s %(message)s"


class _File(logging.FileHandler):
    """Writes to the file, which is made with the first line."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """A run goes on where its log cannot be written."""


@contextmanager
def logged(folder: Path, watcher: Watcher) -> Iterator[Watcher]:
    """A watcher that also writes what it is told to the run's log, as does an exception that ends the run."""
    log, file = logging.getLogger(f"mergesearch.{folder.name}"), _File(folder / LOG, "a", "utf-8", True, "replace")
    file.setFormatter(logging.Formatter(FORMAT))
    log.addHandler(file)
    log.setLevel(logging.DEBUG)
    log.propagate = False
    try:
        log.info("mergesearch %s on %s", installed_version(), platform.node())
        yield _logging(log, watcher)
    except BaseException as error:
        log.error(as_line(f"ended by {in_words(error)}"))
        raise
    finally:
        log.removeHandler(file)
        file.close()


def installed_version() -> str:
    """This version of mergesearch."""
    try:
        return version("mergesearch")
    except PackageNotFoundError:
        return "that is not installed"


def _logging(log: logging.Logger, watcher: Watcher) -> Watcher:
    def stage(text: str) -> None:
        log.info(as_line(text))
        watcher.stage(text)

    def detail(text: str) -> None:
        log.debug(as_line(text))
        watcher.detail(text)

    def begun(view: RunView) -> None:
        log.info(as_line(view.memory))
        watcher.begun(view)

    def trial(view: RunView, found: FrozenTrial) -> None:
        log.log(logging.WARNING if t.REASON in found.user_attrs else logging.INFO, as_line(trial_in_words(view, found)))
        watcher.trial(view, found)

    return replace(watcher, stage=stage, detail=detail, begun=begun, trial=trial)


def trial_in_words(view: RunView, trial: FrozenTrial) -> str:
    """What became of a trial, in one line."""
    head = f"{len(t.finished(view.study))}/{view.trials} {t.kind_of(trial)} {t.label_of(trial)}"
    if t.REASON in trial.user_attrs:
        return f"{head}: failed: {trial.user_attrs[t.REASON]}"
    if same := trial.user_attrs.get(t.SAME_AS):
        return f"{head}: {t.score_of(trial):.4f}, the same model as {same}"
    seconds = trial.user_attrs.get(t.SECONDS, {})
    stopped = " stopped early, about" if trial.state == TrialState.PRUNED else ""
    spent = sum(seconds.get(step, 0.0) for step in ("build", "score"))
    return f"{head}:{stopped} {t.score_of(trial):.4f}, {t.items_of(trial):,} items in {spent:.1f} s"
