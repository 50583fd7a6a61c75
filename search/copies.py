"""The files that a config names, and copies of them on machines that lack them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from glob import glob
from os import utime
from pathlib import Path
from shutil import disk_usage
from typing import Any

from mergesearch.errors import UserError
from mergesearch.evaluators import content_hash
from mergesearch.evaluators.contract.identity import with_imported
from mergesearch.files import atomic_path
from mergesearch.search.config.paths import named_paths
from mergesearch.search.study.locks import held_lock

PART = 1 << 24
"""The most bytes of a file that are read at a time."""
LEFT = (".*", "optimizer*", "scheduler.pt", "rng_state*", "checkpoint-*", "global_step*")
"""Names of files and folders within a folder that are not copied: what trainers leave beside a model."""
Read = Callable[[str, int], bytes]
"""Gives the next bytes of a file, by its path, from an offset on: ``PART``, or what is left."""


@dataclass(frozen=True)
class Named:
    """What a config names by a path or a pattern. ``files``: size, time in ns and mode of each, by absolute path."""

    path: str
    files: Mapping[str, tuple[int, int, int]]

    @property
    def version(self) -> str:
        """Another one where any of the files is another."""
        return content_hash(sorted(self.files.items()))[:16]

    @property
    def is_here(self) -> bool:
        """Whether this machine has all of the files at their paths."""
        return all(Path(file).exists() for file in self.files)

    @property
    def size(self) -> int:
        """Of all files, in bytes."""
        return sum(size for size, _, _ in self.files.values())


def files_of(config: Mapping[str, Any]) -> list[Named]:
    """What a config names that is on this machine. ``config``: its content, with absolute paths."""
    found = (Named(path, {str(file): _state(file) for file in _files(path)}) for path in named_paths(config))
    return [each for each in found if each.files]


def _files(path: str) -> Iterator[Path]:
    """The files at a path, in the folder there, or that match the pattern; of Python, also those that it imports."""
    place = Path(path)
    if place.is_dir():
        parts = ((file, file.relative_to(place).parts) for file in sorted(place.rglob("*")) if file.is_file())
        yield from (file for file, names in parts if not any(fnmatch(name, left) for name in names for left in LEFT))
    elif place.is_file():
        yield from with_imported([place]) if place.suffix == ".py" else [place]
    else:
        yield from sorted(Path(each) for each in glob(path, recursive=True) if Path(each).is_file())  # noqa: PTH207


def _state(file: Path) -> tuple[int, int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns, status.st_mode & 0o777


def read_part(path: str, offset: int) -> bytes:
    """See ``Read``: of a file of this machine."""
    with Path(path).open("rb") as file:
        file.seek(offset)
        return file.read(PART)


def brought(wanted: Sequence[Named], read: Read, folder: Path, everything: bool = False) -> dict[str, str]:
    """Makes copies of what this machine lacks, in ``folder``; where they are, as ``copied`` takes it.

    Each version is copied once: by the process that comes first, while others wait. ``everything``: also of what is
    here. Raises UserError where there is no room, or a file changes meanwhile.
    """
    return {each.path: str(_copy(each, read, folder)) for each in wanted if everything or not each.is_here}


def _copy(what: Named, read: Read, folder: Path) -> Path:
    root = folder / what.version
    folder.mkdir(parents=True, exist_ok=True)
    with held_lock(folder / f"{what.version}.lock"):
        if root.is_dir():
            return root
        if (free := disk_usage(folder).free) < what.size:
            raise UserError(f"{folder}: {what.path} needs {what.size / 1e9:.1f} GB here, but {free / 1e9:.1f} are free")
        with atomic_path(root) as temporary:
            temporary.mkdir()
            for file, state in what.files.items():
                _write(Path(f"{temporary}{file}"), file, state, read)
    return root


def _write(target: Path, file: str, state: tuple[int, int, int], read: Read) -> None:
    size, time, mode = state
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as opened:
        while part := read(file, opened.tell()):
            opened.write(part)
    if target.stat().st_size != size:
        raise UserError(f"{file}: has changed while it was copied")
    target.chmod(mode | 0o600)
    utime(target, ns=(time, time))
