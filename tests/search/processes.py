"""Processes at one run, and what must hold once they have ended."""

import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from optuna.trial import TrialState

from mergesearch.errors import UserError
from mergesearch.evaluators.tasks.bits_per_byte import BitsPerByte
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_folder import RunFolder

from .helpers import Data, at_call, course, go, study_of

RESULTS = ("best.yml", "recommended.yml", "model/model.safetensors")
STOPPED = 3
"""Exit code of a process whose run stopped with a message."""


def assert_same(one: Path, two: Path) -> None:
    """The same trials, recipes and bytes, and nothing half done."""
    assert course(one) == course(two)
    assert not {TrialState.RUNNING, TrialState.WAITING} & {trial.state for trial in study_of(two).get_trials()}
    for name in RESULTS:
        assert (one / name).read_bytes() == (two / name).read_bytes()
    assert not list(two.rglob(".*"))
    assert not list((two / "workers").iterdir())


def slowly(pause: float) -> None:
    """Lets this process score slowly from now on."""
    score = BitsPerByte.score

    def paused(self: BitsPerByte, *arguments: Any) -> Any:
        time.sleep(pause)
        return score(self, *arguments)

    BitsPerByte.score = paused  # type: ignore[method-assign]


def work(config: Data, results: Path, pause: float) -> None:
    torch.set_num_threads(1)
    slowly(pause)
    try:
        go(config, results)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(STOPPED)


def started(config: Data, results: Path, pause: float = 0.05) -> Any:
    """A process at the run."""
    process = multiprocessing.get_context("fork").Process(target=work, args=(config, results, pause))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads: the child sets torch to one
        process.start()
    return process


class Guillotine:
    """Ends its own process as SIGKILL does, before a file operation on a run's folder.

    Operations are counted once it is armed: a file opened for writing, flushed to the disk, renamed or removed, and a
    folder made or removed.
    """

    EVENTS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")

    def __init__(self, folder: Path, operation: int) -> None:
        self._folder, self._left, self._is_armed = str(folder), operation, False
        self._sync = os.fsync

    def install(self, armed_by: tuple[Any, str] | None) -> None:
        """From the call of a method on, or at once. To be called in a process of its own: it cannot be undone."""
        os.fsync = self._flush
        sys.addaudithook(self._audit)
        if armed_by is None:
            self._is_armed = True
            return
        owner, name = armed_by
        setattr(owner, name, at_call(1, self._arm, getattr(owner, name)))

    def _arm(self) -> None:
        self._is_armed = True

    def _flush(self, handle: int) -> None:
        self._count()
        self._sync(handle)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._is_armed or not arguments or self._folder not in str(arguments[0]):
            return
        writes = os.O_WRONLY | os.O_RDWR | os.O_TRUNC | os.O_CREAT
        if event in self.EVENTS or (event == "open" and (arguments[2] or 0) & writes):
            self._count()

    def _count(self) -> None:
        if self._is_armed:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def is_killed_before(operation: int, config: Data, results: Path, armed_by: tuple[Any, str] | None = None) -> bool:
    """Runs the config in a process of its own, until it is killed before that file operation; False: it had fewer."""

    def act() -> None:
        torch.set_num_threads(1)
        Guillotine(results / "small", operation).install(armed_by)
        go(config, results)

    process = multiprocessing.get_context("fork").Process(target=act)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads: the child sets torch to one
        process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def until_scored(folder: Path, count: int) -> None:
    """Waits until the run has so many files of per-item scores."""
    while len(list(folder.glob("scores/*"))) < count:
        time.sleep(0.02)


def assert_whole(folder: Path, trials: int) -> None:
    """Nothing lost, nothing doubled."""
    study = study_of(folder)
    found = study.get_trials()
    assert not {TrialState.RUNNING, TrialState.WAITING} & {trial.state for trial in found}
    finished = t.finished(study)
    assert len(finished) == trials
    assert all(RunFolder(folder).has_scores(t.scores_name(trial.number)) for trial in t.completed(study))
    named = [(t.kind_of(trial), trial.user_attrs[t.NAME]) for trial in finished if t.NAME in trial.user_attrs]
    assert len(set(named)) == len(named) == 12
    points = [str(trial.params) for trial in finished if trial.params and t.kind_of(trial) not in t.NAMED]
    assert len(set(points)) == len(points)
    again = Counter(trial.user_attrs[t.RETRY_OF] for trial in found if t.RETRY_OF in trial.user_attrs)
    assert set(again.values()) <= {1}
    assert all(t.is_interrupted(found[number]) for number in again)
    for name in ("verdict.json", "report.html", *RESULTS):
        assert (folder / name).exists()
    assert not list(folder.rglob(".*"))
