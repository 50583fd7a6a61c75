"""Cats and dogs for code: a small base model, a Python and a C++ fine-tune of it, and tasks for both.

Everything is made from source files that lie on every machine with our dependencies: the interpreter's standard
library and torch's own C++ headers. Nothing is downloaded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

LANGUAGES = ("python", "cpp")

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]
"""Called with the stage's name, the steps done and the steps in all, after every step of training."""


@dataclass(frozen=True)
class Size:
    """How large the demo is. The same size on the same machine gives the same bytes."""

    seed: int = 0
    vocabulary: int = 1024
    hidden: int = 128
    layers: int = 4
    context: int = 64
    """Tokens in a training sequence, and the most that an item may have."""
    batch: int = 32
    base_steps: int = 200
    expert_steps: int = 260
    base_rate: float = 0.03
    expert_rate: float = 0.008
    characters: int = 2_500_000
    """Training text of each language."""
    held_out_files: int = 160
    items: int = 640
    """Items of each language."""
    texts: int = 12
    """Held-out pieces of text of each language, for bits per byte."""


FULL = Size()
TINY = Size(
    vocabulary=512,
    hidden=32,
    layers=2,
    batch=8,
    base_steps=12,
    expert_steps=6,
    characters=150_000,
    held_out_files=24,
    items=40,
    texts=3,
)


def _silent(*_: object) -> None:
    pass


def make(folder: Path, size: Size = FULL, say: Say = _silent, progress: Progress = _silent) -> None:
    """Makes the demo in ``folder``, or leaves it as it is where it was made with the same size and versions.

    A call that was killed is taken up again at the first checkpoint that is missing.
    """
    from mergesearch.demo.build import Build

    Build(folder, size, say, progress).run()
