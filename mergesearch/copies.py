"""Where files are that a config names by a path: at the path, or on a machine that lacks them, in a copy.

The path stays their name everywhere: a run is the same on every machine. It is looked up where files are read.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_ROOTS: dict[str, str] = {}


@contextmanager
def copied(roots: Mapping[str, str]) -> Iterator[None]:
    """Lets this process read copies until the context ends.

    ``roots`` has by path or pattern, as the config writes it, the folder that stands for the root directory.
    """
    found = {str(Path(path)): root for path, root in roots.items()}
    _ROOTS.update(found)
    try:
        yield
    finally:
        for path in found:
            del _ROOTS[path]


def has_copies() -> bool:
    """Whether this process reads any copies."""
    return bool(_ROOTS)


def here(path: str) -> str:
    """Where on this machine that is which a config names by a path or a pattern."""
    return f"{_ROOTS.get(str(Path(path)), '')}{path}" if _ROOTS else path


def named(path: str) -> str:
    """The path of the file whose copy this is; a path that is no copy stays."""
    roots = (root for root in _ROOTS.values() if path.startswith(f"{root}/"))
    return path.removeprefix(next(roots, ""))
