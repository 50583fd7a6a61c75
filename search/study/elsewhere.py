"""Runs whose files are in an artifact store, beside a study in a database: ``search.artifacts``."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna

from mergesearch.errors import UserError, nearest
from mergesearch.say import Say, silent
from mergesearch.search.study import trials as t
from mergesearch.search.study.artifacts import Artifacts
from mergesearch.search.study.database import open_database, without_password
from mergesearch.search.study.database_exchange import DatabaseExchange
from mergesearch.search.study.mirror import Mirror
from mergesearch.search.study.replica import Replica


@contextmanager
def _exchange(storage: str, artifacts: str, run: str, say: Say) -> Iterator[DatabaseExchange]:
    exchange = DatabaseExchange(storage, Artifacts(artifacts), run, say)
    try:
        yield exchange
    finally:
        exchange.close()


@contextmanager
def replicated(storage: str, artifacts: str, run: str, say: Say) -> Iterator[Replica]:
    """One worker's replica of a run's folder, which is removed when the context ends."""
    with (
        _exchange(storage, artifacts, run, say) as exchange,
        tempfile.TemporaryDirectory(prefix="mergesearch-") as here,
    ):
        yield Replica(Path(here) / run, exchange, say=say, storage=exchange.storage)


@contextmanager
def mirrored(storage: str, artifacts: str, folder: Path, without: tuple[str, ...] = ()) -> Iterator[None]:
    """Lets a folder, which has the run's name, follow the run until the context ends; see ``Mirror``."""
    with _exchange(storage, artifacts, folder.name, silent) as exchange, Mirror(exchange, folder, without).followed():
        yield


def config_of(storage: str, run: str) -> dict[str, Any]:
    """The config of a run, by its name. Raises UserError where there is no such run."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    database = open_database(storage)
    studies = {study.study_name: study.user_attrs for study in optuna.get_all_study_summaries(database)}
    config = studies.get(run, {}).get(t.CONFIG)
    if not config:
        raise UserError(
            f"there is no run {run!r} in {without_password(storage)}{nearest(run, tuple(studies))}; "
            "`mergesearch run CONFIG` with the same --storage and --artifacts begins one"
        )
    if not config["search"].get("artifacts"):
        raise UserError(f"{run}: has its files in a folder: it was begun without --artifacts; join it by its config")
    return dict(config)
