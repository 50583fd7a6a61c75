"""Scores that come from outside, by item or one for the whole model: checked before they are believed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergesearch.errors import UserError, listed
from mergesearch.evaluators.contract.evaluator import Item
from mergesearch.evaluators.data.near_duplicates import plain
from mergesearch.evaluators.data.tables import fingerprint

if TYPE_CHECKING:
    from torch import Tensor

WHOLE = "score"
"""The id of the only item of a task that gives one number for the whole model."""


def items_of(task: str, contents: Mapping[str, Any] | Iterable[str] | None) -> list[Item]:
    """Items by id, with what they ask where that is known; None: one number for the whole model. Raises UserError."""
    if contents is None:
        return [Item(WHOLE, task, WHOLE)]
    if isinstance(contents, str) or not isinstance(contents, Iterable):
        raise UserError(f"items: found {contents!r}, expected a list of names, or their contents by name")
    names = list(contents)
    odd = [name for name in names if not isinstance(name, str) or names.count(name) > 1]
    if odd or not names:
        raise UserError(f"items: found {odd[0] if odd else names!r}, expected names, each a text and there once")
    by_name = contents if isinstance(contents, Mapping) else {name: name for name in names}
    return [Item(name, task, fingerprint(by_name[name]), text=plain(by_name[name])) for name in names]


def read_items(file: str) -> list[str]:
    """Names of items from a file, one a line."""
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"items: {file} cannot be read: {error}") from error
    return [line for line in lines if line.strip()]


def checked(task: str, every: Sequence[Item], asked: Sequence[Item], answer: object) -> Tensor:
    """The scores of the items asked, from ``answer``: a number, or numbers by item. Raises ValueError for another."""
    import torch

    whole = every[0].id == WHOLE and len(every) == 1
    answers = {WHOLE: answer} if whole and not isinstance(answer, Mapping) else answer
    if not isinstance(answers, Mapping):
        raise ValueError(f"task {task!r}: gave {answer!r}, expected a number for each item")
    missing = [item.id for item in asked if item.id not in answers]
    if missing:
        hint = "; one number was expected: say which items there are, to have a number for each" if whole else ""
        raise ValueError(
            f"task {task!r}: gave no score for {listed(missing)}, but for {listed(map(str, answers))}{hint}"
        )
    return torch.tensor([_number(task, item, answers[item.id]) for item in asked], dtype=torch.float64)


def _number(task: str, item: Item, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"task {task!r}, item {item.id}: gave {value!r}, expected a number") from None
    if number - number != 0:
        raise FloatingPointError(f"task {task!r}, item {item.id}: gave {value!r}, which is not a finite number")
    return number
