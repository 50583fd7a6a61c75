"""Leases: who is at which trial, and until when that is to be believed.

A worker writes its name and a time on each trial that it takes, and puts the time off for as long as it scores. A trial
whose time has come, or whose worker is known to be dead, is free to be asked for again. Clocks of several hosts must
agree to well under ``SECONDS``.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from mergesearch.search.study import trials as t
from mergesearch.search.study.workers import Workers

SECONDS = 120.0
"""How long a lease is good for."""
RENEWED = 20.0
"""Seconds from one renewal to the next."""


class Leases:
    """The leases of a study's trials, as ``worker`` takes them and judges those of others."""

    def __init__(self, study: Study, workers: Workers, worker: str) -> None:
        self._study = study
        self._workers = workers
        self._worker = worker

    def take(self, trial: Trial) -> None:
        """Writes the lease on the trial, or puts off its end."""
        lease = {"worker": self._worker, "until": time.time() + SECONDS}
        self._study._storage.set_trial_user_attr(trial._trial_id, t.LEASE, lease)

    def is_held(self, trial: Trial) -> bool:
        """Whether the trial is still this worker's: another one takes it where the lease ran out."""
        found = self._study._storage.get_trial(trial._trial_id)
        return found.state == TrialState.RUNNING and found.user_attrs[t.LEASE]["worker"] == self._worker

    def is_lost(self, trial: FrozenTrial) -> bool:
        """Whether nobody is at a running trial any more; to be asked under the folder's lock.

        One without a recipe was being asked for, which happens under that lock: whoever did so is dead.
        """
        lease = trial.user_attrs.get(t.LEASE)
        if lease is None or t.RECIPE not in trial.user_attrs:
            return True
        return lease["until"] < time.time() or self._workers.is_dead(lease["worker"])

    @contextmanager
    def renewed(self, trial: Trial) -> Iterator[None]:
        """Renews the lease from a thread of its own until the context ends."""
        over = threading.Event()
        thread = threading.Thread(target=self._renew, args=(trial, over), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _renew(self, trial: Trial, over: threading.Event) -> None:
        while not over.wait(RENEWED):
            with suppress(Exception):  # what is wrong with the storage, telling the trial will say
                self.take(trial)
