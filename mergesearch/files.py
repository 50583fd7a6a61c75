"""Files that are either complete or absent: they are written under a temporary name and then renamed."""

import errno
import hashlib
import os
import shutil
import signal
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import FrameType

from mergesearch.foreign import Terminated
from mergesearch.text import shown

PathName = str | os.PathLike[str]
"""What functions of the public interface take for a path."""
FULL = ("No space left on device", "Disk quota exceeded", "database or disk is full")
"""Messages of libraries and databases that ran out of space."""
CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.EPERM, errno.EISDIR, errno.EBADF)
"""Errors of file systems, and of Windows, that cannot flush a folder."""


@contextmanager
def atomic_path(target: Path, durable: bool = True) -> Iterator[Path]:
    """Gives a temporary path beside ``target``, for a file or a folder.

    It replaces ``target`` when the context ends, and is removed when the context fails. ``durable``: it is on the disk
    before it gets its name, so that a loss of power leaves the old content or the new one. An OSError of a write has
    the ``filename`` of the target.
    """
    with named_failures(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(target, "tmp")
    try:
        with named_failures(target, temporary):
            yield temporary
            put_in_place(temporary, target, durable)
    finally:
        with suppress(OSError):  # it would hide the error of the write
            remove(temporary)


def put_in_place(temporary: Path, target: Path, durable: bool = True) -> None:
    """Gives a file or a folder beside ``target`` its name, as ``atomic_path`` does. May be done again after a kill."""
    if durable:
        sync(temporary)
    _replace(temporary, target)
    if durable:
        _flush(target.parent)


@contextmanager
def named_failures(target: Path, temporary: Path | None = None) -> Iterator[None]:
    """Gives an OSError that names no file, or the temporary one of this ``target``, the target's name."""
    try:
        yield
    except OSError as error:
        named = error.filename
        if named is None or (temporary and Path(os.fsdecode(named)).is_relative_to(temporary)):
            error.filename = str(target)
        raise


def write_text(target: Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def has_text(file: Path, text: str) -> bool:
    """Whether a file has exactly this UTF-8 text."""
    return file.is_file() and file.read_bytes() == text.encode()


def sync(path: Path) -> None:
    """Writes a file, or a folder with all that is in it, from the system's memory to the disk."""
    if path.is_dir():
        for entry in path.iterdir():
            sync(entry)
    _flush(path)


def _flush(path: Path) -> None:
    is_folder = path.is_dir()
    try:
        handle = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if not is_folder or error.errno not in CANNOT_SYNC:
            raise


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes in hex; cached until the file's size or modification time changes."""
    status = path.stat()
    return _digest(path, status.st_mtime_ns, status.st_size)


@cache
def _digest(path: Path, *_: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """The folder for what this user can do without, which need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mergesearch"


def remove(path: Path) -> None:
    """Removes a file, a symbolic link or a whole folder; does nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _beside(target: Path, suffix: str) -> Path:
    """A new name in the target's folder. Processes of several containers may have the same PID, but not this name."""
    return target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.{suffix}")


def _replace(temporary: Path, target: Path) -> None:
    if temporary.is_dir() and target.exists():
        old = _beside(target, "old")
        target.rename(old)
        try:
            temporary.rename(target)
        except OSError:
            old.rename(target)
            raise
        remove(old)
    else:
        temporary.replace(target)


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one of its causes, says that the disk is full."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or any(word in shown(error) for word in FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def ended_by_exception() -> Iterator[None]:
    """Turns SIGTERM into ``Terminated``, so that temporary files are removed; SIGHUP, too, unless it is ignored.

    Has no effect outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    hang_up = getattr(signal, "SIGHUP", None)
    signals = [signal.SIGTERM, *([hang_up] if hang_up and signal.getsignal(hang_up) == signal.SIG_DFL else [])]
    before = {number: signal.signal(number, _end) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, _: FrameType | None) -> None:
    raise Terminated(128 + number)
