"""Scores from outside, by a function or a program: their items, and checks of their results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergesearch.errors import UserError, listed, located
from mergesearch.evaluators.contract.item import Item
from mergesearch.evaluators.data.content import content_hash, content_text
from mergesearch.reading import JSON_BYTES, read_text
from mergesearch.text import quoted, shown

if TYPE_CHECKING:
    from torch import Tensor

WHOLE_MODEL = "score"
"""The id of the only item of a task that has one score for the whole model."""


def external_items(task: str, contents: Mapping[str, Any] | Iterable[str] | None) -> list[Item]:
    """The items of a task.

    Args:
        task: Name of the task.
        contents: Names of the items, or their contents by name. None: one score for the whole model.

    Raises:
        UserError: The names are not distinct strings, or there are none.
    """
    if contents is None:
        return [Item(WHOLE_MODEL, task, WHOLE_MODEL)]
    if isinstance(contents, str) or not isinstance(contents, Iterable):
        raise UserError(f"items: found {quoted(contents)}, expected a list of names, or a mapping of names to contents")
    names = list(contents)
    invalid = [name for name in names if not isinstance(name, str) or names.count(name) > 1]
    if invalid or not names:
        raise UserError(f"items: found {quoted(invalid[0] if invalid else names)}, expected names: distinct strings")
    for name in names:
        if not name or name != shown(name, len(name)) or "\n" in name:
            raise UserError(f"items: found the name {quoted(name)}, expected one line of text")
    by_name = contents if isinstance(contents, Mapping) else {name: name for name in names}
    return [Item(name, task, content_hash(by_name[name]), text=content_text(by_name[name])) for name in names]


def read_item_names(file: str) -> list[str]:
    """The names in a file, one per line."""
    with located("items"):
        lines = read_text(Path(file), JSON_BYTES).splitlines()
    return [line for line in lines if line.strip()]


def checked_scores(task: str, all_items: Sequence[Item], items: Sequence[Item], result: object) -> Tensor:
    """The scores of some items from a result.

    Args:
        task: Name of the task.
        all_items: All items of the task.
        items: The items that were to be scored.
        result: A number for the whole model, or a mapping from item ids to numbers.

    Returns:
        [items] float64.

    Raises:
        ValueError: The result is something else, or an item is missing.
        FloatingPointError: A score is not finite.
    """
    import torch

    is_whole_model = [item.id for item in all_items] == [WHOLE_MODEL]
    scores = {WHOLE_MODEL: result} if is_whole_model and not isinstance(result, Mapping) else result
    if not isinstance(scores, Mapping):
        raise ValueError(f"task {task!r}: found {quoted(result)}, expected a mapping from items to numbers")
    missing = [item.id for item in items if item.id not in scores]
    if missing:
        hint = "; expected one number for the whole model, or declare the items first" if is_whole_model else ""
        raise ValueError(
            f"task {task!r}: found scores for {listed(map(str, scores))}, but none for {listed(missing)}{hint}"
        )
    return torch.tensor([_finite(task, item, scores[item.id]) for item in items], dtype=torch.float64)


def _finite(task: str, item: Item, score: Any) -> float:
    try:
        number = float(score)
    except (TypeError, ValueError):
        raise ValueError(f"task {task!r}, item {item.id}: found score {quoted(score)}, expected a number") from None
    if number - number != 0:  # infinite or NaN
        raise FloatingPointError(
            f"task {task!r}, item {item.id}: found score {quoted(score)}, expected a finite number"
        )
    return number
