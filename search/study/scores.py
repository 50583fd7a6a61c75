"""Per-item scores as Parquet files, one row for each number: task, item, part, score.

A task whose scores are [items, k] has k rows for each item, numbered by ``part``. A task whose scores are [items] has
one row for each item, and ``part`` is null.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mergesearch.errors import DamagedFileError, UserError, in_words, listed
from mergesearch.evaluators import Item
from mergesearch.files import atomic_path
from mergesearch.reading import check_file

COLUMNS = ["task", "item", "part", "score"]
DIGEST = b"digest"
"""The key of the file's metadata that holds the SHA-256 of its name and content."""


def _damaged(file: Path, found: str) -> DamagedFileError:
    return DamagedFileError(file, found, "start the run again, which scores this candidate again")


def save_scores(file: Path, scores: Mapping[str, Tensor], items: Mapping[str, Sequence[Item]]) -> None:
    """Writes the scores of each task's items, [items] or [items, k], atomically.

    Raises ValueError where a task has another number of scores than of items.
    """
    import pyarrow
    from pyarrow import parquet

    rows = [
        {"task": task, "item": item.id, "part": part, "score": score}
        for task in scores
        for item, values in zip(items[task], scores[task].tolist(), strict=True)
        for part, score in _parts(values)
    ]
    columns = {
        "task": pyarrow.string(),
        "item": pyarrow.string(),
        "part": pyarrow.int32(),
        "score": pyarrow.float64(),
    }
    table = pyarrow.Table.from_pylist(rows, pyarrow.schema(columns))
    table = table.replace_schema_metadata({DIGEST: _digest(file.stem, table.to_pydict())})
    with atomic_path(file) as temporary:
        parquet.write_table(table, temporary, write_page_checksum=True)


def load_scores(file: Path, items: Mapping[str, Sequence[Item]] | None = None) -> dict[str, Tensor]:
    """The scores that ``save_scores`` wrote, float64; tasks without scores are left out.

    They are in the order of each task's ``items``, to which they belong by id; None gives them in the saved order.
    Raises DamagedFileError where the file is missing, is not what was written, or lacks an item, and UserError where it
    has scores of other items.
    """
    columns = _read(file)
    scores: dict[str, dict[str, list[float]]] = {}
    last_parts: dict[str, int | None] = {}
    for task, item, part, score in zip(*(columns[name] for name in COLUMNS), strict=True):
        scores.setdefault(task, {}).setdefault(item, []).append(score)
        last_parts[task] = part
    ids = {task: list(found) for task, found in scores.items()} if items is None else _ids(items)
    for task, found in scores.items():
        _check_ids(file, task, found, ids.get(task, []))
    return {task: _tensor([scores[task][item] for item in ids[task]], last_parts[task]) for task in scores}


def _ids(items: Mapping[str, Sequence[Item]]) -> dict[str, list[str]]:
    return {task: [item.id for item in of_task] for task, of_task in items.items()}


def _check_ids(file: Path, task: str, found: Mapping[str, object], expected: Sequence[str]) -> None:
    missing = sorted(set(expected) - set(found))
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


def _parts(values: float | list[float]) -> Iterator[tuple[int | None, float]]:
    if isinstance(values, list):
        yield from enumerate(values)
    else:
        yield None, values


def _tensor(values: list[list[float]], last_part: int | None) -> Tensor:
    """[items], or [items, last_part + 1]."""
    scores = torch.tensor([score for item in values for score in item], dtype=torch.float64)
    return scores if last_part is None else scores.reshape(-1, last_part + 1)
