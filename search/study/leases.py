"""Leases: which worker scores a trial, and until when the others leave the trial to it.

A worker writes its name and a time on each trial that it takes, and puts the time off for as long as it scores. Once
the time has passed, or the worker is known to be dead, the trial is lost, and its point is asked for again. The clocks
of several hosts must agree to well under ``SECONDS``.
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
RENEWED = 20.0
"""Seconds from one renewal to the next."""


class Leases:
    """The leases on a study's trials. ``worker`` is the name of this process among the ``workers``."""

    def __init__(self, study: Study, workers: Workers, worker: str) -> None:
        self._study = study
        self._workers = workers
        self._worker = worker

    def take(self, trial: Trial) -> None:
        """Writes this worker's lease on the trial, or puts off its end."""
        trial.set_user_attr(t.LEASE, {"worker": self._worker, "until": self._workers.now() + SECONDS})

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

        A trial gets its recipe while its worker holds that lock: the worker of a trial without a recipe is dead.
        """
        lease = trial.user_attrs.get(t.LEASE)
        if lease is None or t.RECIPE not in trial.user_attrs:
            return True
        return lease["until"] < self._workers.now() or self._workers.is_dead(lease["worker"])

    def renewed(self, trial: Trial) -> AbstractContextManager[None]:
        """Renews the lease from a thread until the context ends."""
        return beside(partial(self._renew, trial))

    def _renew(self, trial: Trial, is_over: threading.Event) -> None:
        while not is_over.wait(RENEWED):
            # A storage that fails is reported when the trial is told.
            with suppress(Exception), noted_aside(self._study):
                self.take(trial)
