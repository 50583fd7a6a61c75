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

from mergesearch.errors import DamagedFileError, in_words
from mergesearch.evaluators import Item
from mergesearch.files import atomic_path

COLUMNS = ["task", "item", "part", "score"]
DIGEST = b"digest"
"""The key of the file's metadata that holds the SHA-256 of its content."""


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
    table = table.replace_schema_metadata({DIGEST: _digest(table.to_pydict())})
    with atomic_path(file) as temporary:
        parquet.write_table(table, temporary, write_page_checksum=True)


def load_scores(file: Path) -> dict[str, Tensor]:
    """The scores that ``save_scores`` wrote, float64, in the same order; tasks without items are left out.

    Raises DamagedFileError where the file is missing or is not what was written.
    """
    columns = _read(file)
    scores: dict[str, list[float]] = {}
    last_parts: dict[str, int | None] = {}
    for task, part, score in zip(columns["task"], columns["part"], columns["score"], strict=True):
        scores.setdefault(task, []).append(score)
        last_parts[task] = part
    return {task: _tensor(values, last_parts[task]) for task, values in scores.items()}


def _read(file: Path) -> dict[str, list[Any]]:
    from pyarrow import ArrowException, parquet

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
    if list(columns) != COLUMNS or metadata not in (None, {DIGEST: _digest(columns)}):  # earlier versions wrote none
        raise _damaged(file, "is damaged (its content is not what was written)")
    return columns


def _digest(columns: Mapping[str, Sequence[Any]]) -> bytes:
    return hashlib.sha256(repr(columns).encode("utf-8", "surrogatepass")).hexdigest().encode()


def _parts(values: float | list[float]) -> Iterator[tuple[int | None, float]]:
    if isinstance(values, list):
        yield from enumerate(values)
    else:
        yield None, values


def _tensor(values: list[float], last_part: int | None) -> Tensor:
    """[items], or [items, last_part + 1]."""
    scores = torch.tensor(values, dtype=torch.float64)
    return scores if last_part is None else scores.reshape(-1, last_part + 1)
