"""The size of the demo, and what its parts have in common."""

from collections.abc import Callable
from dataclasses import dataclass

LANGUAGES = ("python", "cpp", "english", "yaml")
BASE_LANGUAGES = ("english", "yaml")
"""What the base is trained on; the other languages are new to it."""

Progress = Callable[[str, int, int], None]
"""Gets the name of the checkpoint, the steps done and the steps in all, after every training step."""


@dataclass(frozen=True)
class Size:
    """The size of the demo. The same size on the same machine gives the same bytes."""

    seed: int = 0
    vocabulary: int = 1024
    hidden: int = 128
    layers: int = 4
    context: int = 64
    """Tokens of a training sequence, and the maximum of an item."""
    batch: int = 32
    base_steps: int = 150
    expert_steps: int = 250
    base_rate: float = 0.03
    expert_rate: float = 0.008
    characters: int = 2_500_000
    """Training text of each language."""
    held_out_files: int = 360
    held_out_characters: int = 1_200_000
    items: int = 3600
    """Items of each language."""
    texts: int = 12
    """Pieces of held-out text of each language, for bits per byte."""


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
    held_out_characters=30_000,
    items=40,
    texts=3,
)
