"""Compiled kernels on disk, in a folder that only this user can write to.

A shared library runs with the user's rights as soon as it is loaded. So the folder must belong to the user and be
closed to others, and a file's name has the hash of its content, which is compared before the file is loaded.
"""

import atexit
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from mergesearch.files import cache_folder


def compiled(command: Sequence[str], *sources: Path) -> Path:
    """Returns the shared library that the compiler's ``command`` makes of the sources, compiled where it is missing.

    Args:
        command: the compiler and its flags.
        sources: the files in C, and the headers in the same folder that they include.

    Raises:
        OSError: the compiler cannot be started, or the library cannot be written.
        subprocess.SubprocessError: the compiler fails.
    """
    folder, digest = _private_folder(), _digest(command, sources)
    for file in sorted(folder.glob(f"kernels-{digest}-*.so")):
        if file.stem.endswith(_content_hash(file)):
            return file
        file.unlink(missing_ok=True)
    return _compile([*command, *(str(file) for file in sources if file.suffix == ".c")], folder, digest)


def _compile(command: Sequence[str], folder: Path, digest: str) -> Path:
    # Several processes may compile at once. Compilers may name temporary files in their output: files may differ.
    with tempfile.TemporaryDirectory(prefix=".compile.", dir=folder) as scratch:
        built = Path(scratch) / "kernels.so"
        subprocess.run([*command, "-o", str(built), "-lm"], check=True, capture_output=True)
        file = folder / f"kernels-{digest}-{_content_hash(built)}.so"
        built.replace(file)
    return file


def _content_hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:32]


def _digest(command: Sequence[str], sources: Sequence[Path]) -> str:
    """Returns a hash of all that the compiled file depends on. Different machines may share a home folder."""
    info = Path("/proc/cpuinfo")
    flags = [line for line in info.read_text().splitlines() if "flags" in line.lower()][:1] if info.exists() else []
    texts = [source.read_text(encoding="utf-8") for source in sources]
    inputs = [*texts, *command, platform.machine(), platform.processor(), *flags]
    return hashlib.sha256("\n".join(inputs).encode()).hexdigest()[:16]


def _private_folder() -> Path:
    """Returns the cache folder of the user, or a temporary one where that is not the user's alone."""
    folder = cache_folder()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder if _is_private(folder) and os.access(folder, os.W_OK) else _temporary_folder()
    except OSError:
        return _temporary_folder()


def _is_private(folder: Path) -> bool:
    """Whether the folder is the user's own and nobody else can write to it. Closes an own folder that is open."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or (hasattr(os, "getuid") and status.st_uid != os.getuid()):
        return False
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        # What others could write before is not trusted, whatever its name says.
        for file in folder.glob("kernels-*"):
            file.unlink(missing_ok=True)
    folder.chmod(0o700)
    return True


@cache
def _temporary_folder() -> Path:
    folder = tempfile.mkdtemp(prefix="mergesearch-kernels-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
