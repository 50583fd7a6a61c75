"""Failures that concern a whole run, and no candidate: the disk, the database, a file of the run's folder."""

import os
from pathlib import Path

from optuna.exceptions import StorageInternalError

from mergesearch.errors import DamagedFileError, UserError, first_line
from mergesearch.files import is_disk_full
from mergesearch.search.study.exchange import ArtifactError, LostError


def stopped_by(error: BaseException, folder: Path) -> UserError | None:
    """What to say where an error ends this session of the run in ``folder``; None where it does not.

    Every finished trial is kept, so that the run goes on later.
    """
    if isinstance(error, DamagedFileError):
        return error
    if is_disk_full(error):
        return _stop(folder, f"the disk is full ({first_line(error)})", "there is space")
    if isinstance(error, StorageInternalError | ArtifactError):
        what = "the database" if isinstance(error, StorageInternalError) else "the artifact store"
        return _stop(folder, f"{what} fails ({first_line(error.__cause__ or error)})", "it answers")
    if isinstance(error, LostError):
        return _stop(folder, str(error), "it joins again")
    if isinstance(error, OSError) and _is_in(error, folder):
        return _stop(folder, f"a file cannot be read or written ({first_line(error)})", "it can")
    return None


def _stop(folder: Path, what: str, when: str) -> UserError:
    return UserError(
        f"{folder}: {what}; every finished trial is kept, and the same command goes on from there when {when}"
    )


def _is_in(error: OSError, folder: Path) -> bool:
    if not isinstance(error.filename, str | bytes):
        return False
    return Path(os.fsdecode(error.filename)).absolute().is_relative_to(folder.absolute())
