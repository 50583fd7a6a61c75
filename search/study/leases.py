"""Leases: which worker scores a trial, and until when the others leave the trial to it.

A worker writes its name and a time on each trial that it takes, and puts the time off for as long as it scores. Once
the time has passed, or the worker is known to be dead, the trial is lost, and its point is asked for again. The clocks
of several hosts must agree to well under ``SECONDS``.

A trial that a worker asked for ahead is put aside once it has a recipe: then it is nobody's, and whoever next needs one
takes it.
"""

import threading
from contextlib import AbstractContextManager, suppress
from functools import partial

from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from mergesearch.beside import beside
from mergesearch.search.study import trials as t
from mergesearch.search.study.journal import noted_aside
from mergesearch.search.study.workers import Workers

SECONDS = 120.0
"""How long a lease is valid."""
NOBODY = ""
"""The worker of a trial that was put aside."""
RENEWED = 20.0
"""Seconds from one renewal to the next."""


class Leases:
    """The leases on a study's trials. ``worker`` is the name of this process among the ``workers``."""

    def __init__(self, study: Study, workers: Workers, worker: str) -> None:
        self._study = study
        self._workers = workers
        self._worker = worker

    def take(self, trial: Trial, ahead: bool = False) -> None:
        """Writes this worker's lease on the trial, or puts off its end. ``ahead``: it is not scored yet."""
        lease = {"worker": self._worker, "until": self._workers.now() + SECONDS}
        trial.set_user_attr(t.LEASE, lease | ({t.AHEAD: True} if ahead else {}))

    @staticmethod
    def put_aside(trial: Trial) -> None:
        """Leaves a trial, which has a recipe, to whoever takes it."""
        trial.set_user_attr(t.LEASE, {"worker": NOBODY, "until": 0.0, t.AHEAD: True})

    @staticmethod
    def is_aside(trial: FrozenTrial) -> bool:
        """Whether a running trial was put aside."""
        return bool(trial.user_attrs.get(t.LEASE, {}).get("worker") == NOBODY)

    def give_back(self, trial: Trial) -> None:
        """Leaves a trial that this worker holds to the others, which need not wait for the lease's end."""
        if self.is_held(trial):
            trial.set_user_attr(t.LEASE, {"worker": self._worker, "until": 0.0})

    def is_held(self, trial: Trial) -> bool:
        """Whether the trial still belongs to this worker. Another worker takes it after the lease has run out."""
        now = self._study.get_trials(deepcopy=False)[trial.number]
        return now.state == TrialState.RUNNING and now.user_attrs[t.LEASE]["worker"] == self._worker

    def is_lost(self, trial: FrozenTrial) -> bool:
        """Whether no worker scores a running trial any more. To be called under the run folder's lock.

        A trial gets its lease while its worker holds that lock: the worker of a trial without a lease is dead.
        """
        lease = trial.user_attrs.get(t.LEASE)
        if lease is None or self.is_aside(trial):
            return lease is None
        return lease["until"] < self._workers.now() or self._workers.is_dead(lease["worker"])

    def renewed(self, trial: Trial, ahead: bool = False) -> AbstractContextManager[None]:
        """Renews the lease from a thread until the context ends."""
        return beside(partial(self._renew, trial, ahead))

    def _renew(self, trial: Trial, ahead: bool, is_over: threading.Event) -> None:
        while not is_over.wait(RENEWED):
            # A storage that fails is reported when the trial is told.
            with suppress(Exception), noted_aside(self._study):
                self.take(trial, ahead)
