"""One item of a task, and the mean of items' scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Item:
    """One question, text or pair of a task, which gets one score.

    Attributes:
        id: Unique within the task.
        task: Name of the task.
        fingerprint: Hash of the item's content, or of the group that the item belongs to. Items with equal
            fingerprints are always on the same side of a split.
        weight: The item's weight in the task's value: 1 for accuracy, the number of bytes for bits per byte.
        chance: Expected score of a random guess, such as 1 / number of choices for accuracy. None: unknown.
        text: Content that is compared with other items to keep near-duplicates on the same side of a split. Empty
            if a group field in the config decides which items belong together.
        subtask: Name of the subtask, for items of a group of tasks. Empty otherwise.
        content: Hash of the item's content, where the fingerprint is that of a group. Empty otherwise.
    """

    id: str
    task: str
    fingerprint: str
    weight: float = 1.0
    chance: float | None = None
    text: str = field(default="", compare=False, repr=False)
    subtask: str = ""
    content: str = field(default="", compare=False, repr=False)


def aggregate(items: Sequence[Item], scores: Tensor | Sequence[float]) -> float:
    """The mean of the items' scores, weighted by ``Item.weight``."""
    # Python's sum in the order of the items, as in lm-eval: the result is equal to the last bit.
    total = sum(item.weight * float(score) for item, score in zip(items, scores, strict=True))
    return total / sum(item.weight for item in items)
