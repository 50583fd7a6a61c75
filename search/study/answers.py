"""What candidates answered to test items, as Parquet files beside their scores: task, item, answer."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mergesearch.errors import UserError
from mergesearch.evaluators import Item
from mergesearch.search.study.table_file import read_table, write_table
from mergesearch.text import shown

FOLDER = "answers"
COLUMNS = ("task", "item", "answer")
TEXT = 2_000
"""The most characters of an answer that are kept."""
ItemKey = tuple[str, str]
"""A task's name and an item's id."""


def save_answers(
    folder: Path, name: str, answers: Mapping[str, Sequence[str]], items: Mapping[str, Sequence[Item]]
) -> None:
    """Writes the answers of a run's candidate to each task's items, atomically; nothing where there are none."""
    rows = [
        (task, item.id, shown(answer, TEXT))
        for task, given in answers.items()
        for item, answer in zip(items[task], given, strict=True)
        if answer
    ]
    if rows:
        write_table(_file(folder, name), dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True)))


def load_answers(folder: Path, name: str) -> dict[ItemKey, str]:
    """The answers that ``save_answers`` wrote, by task and item; empty where they are missing or damaged."""
    try:
        columns, _ = read_table(_file(folder, name), COLUMNS)
    except UserError:
        return {}
    return {(task, item): answer for task, item, answer in zip(*(columns[name] for name in COLUMNS), strict=True)}


def _file(folder: Path, name: str) -> Path:
    return folder / FOLDER / f"{name}.parquet"
