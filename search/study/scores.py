"""Per-item scores as Parquet files, one row for each number: task, item, part, score, margin.

A task whose scores are [items, k] has k rows for each item, numbered by ``part``. A task whose scores are [items] has
one row for each item, and ``part`` is null. The margins behind the scores are beside them, in the rows of their own
parts; ``score`` or ``margin`` is null where a task has fewer of them.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from math import nan
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from mergesearch.errors import DamagedFileError, UserError, in_words, listed
from mergesearch.evaluators import Item
from mergesearch.files import atomic_path
from mergesearch.reading import check_file

COLUMNS = ["task", "item", "part", "score", "margin"]
DIGEST = b"digest"
"""The key of the file's metadata that holds the SHA-256 of its name and content."""


def _damaged(file: Path, found: str) -> DamagedFileError:
    return DamagedFileError(file, found, "start the run again, which scores this candidate again")


def save_scores(
    file: Path,
    scores: Mapping[str, Tensor],
    items: Mapping[str, Sequence[Item]],
    margins: Mapping[str, Tensor] = MappingProxyType({}),
) -> None:
    """Writes the scores of each task's items, [items] or [items, k], and the margins of some tasks, atomically.

    Raises ValueError where a task has another number of scores or margins than of items.
    """
    import pyarrow
    from pyarrow import parquet

    rows = [
        (task, item.id, *part)
        for task in scores
        for item, *values in zip(items[task], *_columns(scores[task], margins.get(task)), strict=True)
        for part in _parts(*values)
    ]
    types = pyarrow.string(), pyarrow.string(), pyarrow.int32(), pyarrow.float64(), pyarrow.float64()
    columns = {name: [row[number] for row in rows] for number, name in enumerate(COLUMNS)}
    schema = pyarrow.schema(list(zip(COLUMNS, types, strict=True)), {DIGEST: _digest(file.stem, columns)})
    table = pyarrow.Table.from_pydict(columns, schema)
    with atomic_path(file) as temporary:
        parquet.write_table(table, temporary, write_page_checksum=True)


def load_scores(
    file: Path, items: Mapping[str, Sequence[Item]] | None = None, partial: bool = False
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The scores and the margins that ``save_scores`` wrote, float64; tasks without any are left out.

    They are in the order of each task's ``items``, to which they belong by id; None gives them in the saved order.
    ``partial``: items without scores have NaN. Raises DamagedFileError where the file is missing, is not what was
    written, or lacks an item, unless ``partial``, and UserError where it has scores of other items.
    """
    columns = _read(file)
    scores, margins = _Numbers(), _Numbers()
    for task, item, part, score, margin in zip(*(columns[name] for name in COLUMNS), strict=True):
        scores.add(task, item, part, score)
        margins.add(task, item, part, margin)
    ids = {task: list(found) for task, found in scores.by_item.items()} if items is None else _ids(items)
    for task, found in scores.by_item.items():
        _check_ids(file, task, found, ids.get(task, []), partial)
    return scores.tensors(ids), margins.tensors(ids)


class _Numbers:
    """The numbers of one column by task and item."""

    def __init__(self) -> None:
        self.by_item: dict[str, dict[str, list[float]]] = {}
        self._last_parts: dict[str, int | None] = {}

    def add(self, task: str, item: str, part: int | None, number: float | None) -> None:
        if number is not None:
            self.by_item.setdefault(task, {}).setdefault(item, []).append(number)
            self._last_parts[task] = part

    def tensors(self, ids: Mapping[str, Sequence[str]]) -> dict[str, Tensor]:
        """Each task's numbers in the order of its items."""
        return {
            task: _tensor([found.get(item, self._unknown(task)) for item in ids[task]], self._last_parts[task])
            for task, found in self.by_item.items()
        }

    def _unknown(self, task: str) -> list[float]:
        return [nan] * (1 + (self._last_parts[task] or 0))


def _ids(items: Mapping[str, Sequence[Item]]) -> dict[str, list[str]]:
    return {task: [item.id for item in of_task] for task, of_task in items.items()}


def _check_ids(file: Path, task: str, found: Mapping[str, object], expected: Sequence[str], partial: bool) -> None:
    missing = [] if partial else sorted(set(expected) - set(found))
    others = sorted(set(found) - set(expected))
    if others:
        raise UserError(
            f"{file}: has scores of other items of task {task!r} than there are now: {listed(others)}; bring back the "
            "items that the run was begun with, or give the new run another name with --name"
        )
    if missing:
        raise _damaged(file, f"has no scores of {len(missing)} items of task {task!r}: {listed(missing)}")


def _read(file: Path) -> dict[str, list[Any]]:
    from pyarrow import ArrowException, parquet

    if file.exists():
        check_file(file)
    try:
        table = parquet.read_table(file, page_checksum_verification=True)
        columns: dict[str, list[Any]] = table.to_pydict()
        metadata = table.schema.metadata
    except FileNotFoundError:
        raise _damaged(file, "is missing") from None
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        if getattr(error, "errno", None) is not None:  # it is the disk that fails
            raise
        raise _damaged(file, f"is damaged ({in_words(error).splitlines()[0]})") from None
    if list(columns) != COLUMNS or metadata != {DIGEST: _digest(file.stem, columns)}:
        raise _damaged(file, "is damaged (its content is not what was written)")
    return columns


def _digest(name: str, columns: Mapping[str, Sequence[Any]]) -> bytes:
    """Of the content and of whose scores it is, so that a file that took another's place is found."""
    return hashlib.sha256(f"{name} {columns!r}".encode("utf-8", "surrogatepass")).hexdigest().encode()


def _columns(scores: Tensor, margins: Tensor | None) -> tuple[list[Any], list[Any]]:
    """The items' scores, and their margins, None where there are none."""
    return scores.double().tolist(), [None] * len(scores) if margins is None else margins.double().tolist()


def _parts(
    scores: float | list[float], margins: float | list[float] | None
) -> Iterator[tuple[int | None, float | None, float | None]]:
    """(part, score, margin) of one item, whose scores and margins are each one number, a list, or None."""
    one, two = _by_part(scores), _by_part(margins)
    for part in {**one, **two}:
        yield part, one.get(part), two.get(part)


def _by_part(numbers: float | list[float] | None) -> dict[int | None, float]:
    if isinstance(numbers, list):
        return dict(enumerate(numbers))
    return {} if numbers is None else {None: numbers}


def _tensor(values: list[list[float]], last_part: int | None) -> Tensor:
    """[items], or [items, last_part + 1]."""
    scores = torch.tensor([score for item in values for score in item], dtype=torch.float64)
    return scores if last_part is None else scores.reshape(-1, last_part + 1)
