"""Per-item scores as Parquet files, one row for each number: task, item, part, score.

A task whose scores are [items, k] has k rows for each item, numbered by ``part``. A task whose scores are [items] has
one row for each item, and ``part`` is null.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mergesearch.evaluators import Item
from mergesearch.files import atomic_path


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
    with atomic_path(file) as temporary:
        parquet.write_table(table, temporary)


def load_scores(file: Path) -> dict[str, Tensor]:
    """The scores that ``save_scores`` wrote, float64, in the same order; tasks without items are left out."""
    from pyarrow import parquet

    columns = parquet.read_table(file).to_pydict()
    scores: dict[str, list[float]] = {}
    last_parts: dict[str, int | None] = {}
    for task, part, score in zip(columns["task"], columns["part"], columns["score"], strict=True):
        scores.setdefault(task, []).append(score)
        last_parts[task] = part
    return {task: _tensor(values, last_parts[task]) for task, values in scores.items()}


def _parts(values: float | list[float]) -> Iterator[tuple[int | None, float]]:
    if isinstance(values, list):
        yield from enumerate(values)
    else:
        yield None, values


def _tensor(values: list[float], last_part: int | None) -> Tensor:
    """[items], or [items, last_part + 1]."""
    scores = torch.tensor(values, dtype=torch.float64)
    return scores if last_part is None else scores.reshape(-1, last_part + 1)
