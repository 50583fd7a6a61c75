"""Per-item scores as Parquet files, one row for each number: task, item, part, score, margin.

A task whose scores are [items, k] has k rows for each item, numbered by ``part``. A task whose scores are [items] has
one row for each item, and ``part`` is null. The margins behind the scores are beside them, in the rows of their own
parts; ``score`` or ``margin`` is null where a task has fewer of them.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mergesearch.errors import DamagedFileError, UserError, listed
from mergesearch.evaluators import Item
from mergesearch.search.statistics import Array
from mergesearch.search.study.table_file import read_parquet, write_parquet

COLUMNS = ["task", "item", "part", "score", "margin"]
DIGEST = b"digest"
"""The key of the file's metadata that holds the SHA-256 of its name and content."""
REMEDY = "start the run again, which scores this candidate again"


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

    rows = [_rows(task, [item.id for item in items[task]], scores[task], margins.get(task)) for task in scores]
    table = pyarrow.concat_tables(rows) if rows else _schema().empty_table()
    write_parquet(file, table.replace_schema_metadata({DIGEST: _digest(file.stem, table)}))


def _schema() -> Any:
    import pyarrow

    types = pyarrow.string(), pyarrow.string(), pyarrow.int32(), pyarrow.float64(), pyarrow.float64()
    return pyarrow.schema(list(zip(COLUMNS, types, strict=True)))


def _rows(task: str, ids: Sequence[str], scores: Tensor, margins: Tensor | None) -> Any:
    """The table of one task: the parts of the first item, of the second, and so on."""
    import pyarrow

    one, two = _by_part(scores), _by_part(margins)
    parts = [*{**one, **two}]
    if any(len(numbers) != len(ids) for numbers in (*one.values(), *two.values())):
        raise ValueError(f"task {task!r} has {len(ids)} items, but another number of scores or margins")
    repeated = [each for each in ids for _ in parts]
    numbers = [_in_rows(each, parts, len(ids)) for each in (one, two)]
    return pyarrow.table([[task] * len(repeated), repeated, parts * len(ids), *numbers], _schema())


def _in_rows(by_part: Mapping[int | None, Array], parts: Sequence[int | None], count: int) -> Any:
    """The numbers of a column, [count] for each part, item by item; null for the parts that it lacks."""
    import pyarrow

    numbers = np.stack([by_part.get(part, np.zeros(count)) for part in parts], axis=1)
    return pyarrow.array(numbers.ravel(), mask=np.tile([part not in by_part for part in parts], count))


def load_scores(
    file: Path, items: Mapping[str, Sequence[Item]] | None = None, partial: bool = False
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The scores and the margins that ``save_scores`` wrote, float64; tasks without any are left out.

    They are in the order of each task's ``items``, to which they belong by id; None gives them in the saved order.
    ``partial``: items without scores have NaN. Raises DamagedFileError where the file is missing, is not what was
    written, or lacks an item, unless ``partial``, and UserError where it has scores of other items.
    """
    from pyarrow import compute

    scores: dict[str, Tensor] = {}
    margins: dict[str, Tensor] = {}
    table = _read(file)
    for task in table["task"].unique().to_pylist():
        rows = table.filter(compute.equal(table["task"], task))
        numbers = _Numbers.of(rows, "score")
        if numbers is not None:
            order = numbers.ids if items is None else [item.id for item in items.get(task, ())]
            _check_ids(file, task, numbers.ids, order, partial)
            scores[task] = numbers.in_order(order)
            behind = _Numbers.of(rows, "margin")
            margins |= {} if behind is None else {task: behind.in_order(order)}
    return scores, margins


@dataclass(frozen=True)
class _Numbers:
    """The numbers of one column of a task, [items] or [items, k], in the order of the items' ``ids``."""

    ids: list[str]
    values: Tensor

    @classmethod
    def of(cls, rows: Any, column: str) -> "_Numbers | None":
        """From the rows of a task; None where the column has no numbers."""
        rows = rows.filter(rows[column].is_valid())
        if not len(rows):
            return None
        ids, parts = rows["item"].to_pylist(), rows["part"]
        values = torch.tensor(rows[column].to_numpy())
        if parts.null_count:
            return cls(ids, values)
        width = max(parts.to_pylist()) + 1
        return cls(ids[::width], values.reshape(-1, width))

    def in_order(self, ids: Sequence[str]) -> Tensor:
        """Those of the items with these ids; NaN for an item without any."""
        places = {each: place for place, each in enumerate(self.ids)}
        unknown = self.values.new_full((1, *self.values.shape[1:]), nan)
        return torch.cat([self.values, unknown])[[places.get(each, -1) for each in ids]]


def _check_ids(file: Path, task: str, found: Sequence[str], expected: Sequence[str], partial: bool) -> None:
    missing = [] if partial else sorted(set(expected) - set(found))
    others = sorted(set(found) - set(expected))
    if others:
        raise UserError(
            f"{file}: has scores of other items of task {task!r} than there are now: {listed(others)}; bring back the "
            "items that the run was begun with, or give the new run another name with --name"
        )
    if missing:
        lacks = f"has no scores of {len(missing)} items of task {task!r}: {listed(missing)}"
        raise DamagedFileError(file, lacks, REMEDY)


def _read(file: Path) -> Any:
    """The table. Raises DamagedFileError where it is not what was written."""
    table = read_parquet(file, REMEDY)
    if table.schema.equals(_schema()) and (table.schema.metadata or {}).get(DIGEST) == _digest(file.stem, table):
        return table
    raise DamagedFileError(file, "is damaged (its content is not what was written)", REMEDY)


def _digest(name: str, table: Any) -> bytes:
    """Of the content and of whose scores it is, so that a file that took another's place is found."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass"))
    for column in table.columns:
        digest.update(column.is_null().to_numpy().tobytes())
        if column.type == "string":
            digest.update(repr(column.to_pylist()).encode("utf-8", "surrogatepass"))
        else:
            digest.update(column.fill_null(0).to_numpy().tobytes())
    return digest.hexdigest().encode()


def _by_part(numbers: Tensor | None) -> dict[int | None, Array]:
    """[items] for each part of [items, k]; the part of [items] is None."""
    if numbers is None:
        return {}
    found = numbers.double().numpy()
    return {None: found} if found.ndim == 1 else dict(enumerate(found.T))
