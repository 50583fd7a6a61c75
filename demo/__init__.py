"""The demo: a small base model, fine-tunes of it for four languages, and a task for each language.

All text comes from files that every machine with our dependencies has: the standard library of the interpreter, the C++
headers of torch, the docstrings of numpy, scipy and others, and the tasks of lm-eval. Nothing is downloaded.
"""

from pathlib import Path

from mergesearch.demo.size import FULL, LANGUAGES, TINY, Progress, Size
from mergesearch.say import Say

__all__ = ["FULL", "LANGUAGES", "TINY", "Progress", "Say", "Size", "make"]


def _ignore(*_: object) -> None:
    pass


def make(folder: Path, size: Size = FULL, say: Say = _ignore, progress: Progress = _ignore) -> None:
    """Makes the demo in ``folder``, unless it exists with the same size and package versions.

    An interrupted call is resumed at the first missing checkpoint. Raises UserError where the folder has other content,
    or where the source files are not installed.
    """
    from mergesearch.demo.build import Build

    Build(folder, size, say, progress).run()
