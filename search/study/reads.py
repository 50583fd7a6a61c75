"""A database's trials, which are read once for each decision rather than once for each question.

Optuna keeps finished trials, but asks the database for the others whenever a study is read: five statements, two dozen
times a trial. Nobody else begins or ends trials while a worker holds the run's lock.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from threading import local
from typing import Any

from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.study import Study

WRITING = (
    "create_new_trial",
    "set_trial_param",
    "set_trial_state_values",
    "set_trial_intermediate_value",
    "set_trial_user_attr",
    "set_trial_system_attr",
)
"""The operations after which trials are read anew."""


class _Trials(_CachedStorage):
    """Optuna's own cache, which a thread can keep from asking again."""

    def __init__(self, backend: RDBStorage) -> None:
        super().__init__(backend)
        self.writes, self.block = 0, local()

    def _read_trials_from_remote_storage(self, study_id: int) -> None:
        known, now = getattr(self.block, "known", None), (study_id, self.writes)
        if known is None or known != now:
            super()._read_trials_from_remote_storage(study_id)
        if known is not None:
            self.block.known = now


def _counted(operation: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(operation)
    def counted(self: _Trials, *arguments: Any, **keys: Any) -> Any:
        try:
            return operation(self, *arguments, **keys)
        finally:
            self.writes += 1

    return counted


for _name in WRITING:
    setattr(_Trials, _name, _counted(getattr(_CachedStorage, _name)))


def with_known_trials(storage: BaseStorage) -> BaseStorage:
    """The storage for a study; of a database, with ``read_once``."""
    return _Trials(storage) if isinstance(storage, RDBStorage) else storage


@contextmanager
def read_once(study: Study) -> Iterator[None]:
    """Inside this block this thread reads the study's trials again only after this process has written something.

    To be left soon: what others do meanwhile is not seen. A journal is always read at once.
    """
    storage = study._storage  # Optuna has no public name for it.
    if not isinstance(storage, _Trials):
        yield
        return
    before, storage.block.known = getattr(storage.block, "known", None), ()
    try:
        yield
    finally:
        storage.block.known = before
