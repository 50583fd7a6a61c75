"""Tables on disk: a folder that ``datasets`` saved, CSV, JSON lines or Parquet; rows become items."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field

from mergesearch.errors import UserError, listed, nearest
from mergesearch.evaluators.contract.evaluator import EvaluatorOptions
from mergesearch.evaluators.data.near_duplicates import plain

Row = dict[str, Any]


class TableOptions(EvaluatorOptions):
    """Where the rows of a task lie."""

    data: str = Field(
        min_length=1, description="A folder that datasets' save_to_disk wrote, or a .csv, .tsv, .jsonl or .parquet file"
    )
    split: str | None = Field(None, description="Which split, of a folder that holds several")


@dataclass(frozen=True)
class Table:
    """Rows with the same fields. ``names``: of fields whose numbers stand for names, these names by number."""

    place: str
    rows: Sequence[Row]
    names: dict[str, list[str]]

    @cached_property
    def fields(self) -> list[str]:
        return list(dict.fromkeys(field for row in self.rows for field in row))

    def column(self, field: str, key: str) -> list[Any]:
        """One field of every row; ``key`` is what the config calls it. Raises UserError where a row has nothing."""
        if field not in self.fields:
            raise UserError(f"{key}: {self.place} has no field {field!r}{nearest(field, self.fields)}")
        values = [row.get(field) for row in self.rows]
        if None in values:
            raise UserError(f"{key}: {self.place}, row {values.index(None)}: has no {field!r}")
        return values

    def texts(self, field: str, key: str) -> list[str]:
        """``column`` of texts."""
        values = self.column(field, key)
        for number, value in enumerate(values):
            if not isinstance(value, str):
                raise UserError(f"{key}: {self.place}, row {number}: {field!r} is {value!r}, expected a text")
        return values

    def numbers(self, field: str, key: str) -> list[float]:
        """``column`` of finite numbers, also where they are written as text, as in a CSV file."""
        return [self._number(n, field, key, value) for n, value in enumerate(self.column(field, key))]

    def _number(self, row: int, field: str, key: str, value: Any) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = float("nan")
        if number - number != 0:  # not finite
            raise UserError(f"{key}: {self.place}, row {row}: {field!r} is {value!r}, expected a number")
        return number

    def fingerprints(self, fields: Sequence[str], group: str | None) -> list[str]:
        """For each row a hash of these fields, or of the field that says which rows stay together."""
        columns = [self.column(field, "group" if group else "data") for field in ([group] if group else fields)]
        return [fingerprint(values) for values in zip(*columns, strict=True)]

    def contents(self, fields: Sequence[str], group: str | None) -> list[str]:
        """For each row what these fields say, by which near-duplicates are found; nothing where ``group`` is said."""
        columns = [self.column(field, "data") for field in fields]
        return [plain(values) if group is None else "" for values in zip(*columns, strict=True)]


def fingerprint(content: Any) -> str:
    """SHA-256 of what JSON makes of it."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def read_table(options: TableOptions) -> Table:
    """The rows that the options name. Raises UserError where there are none."""
    path = Path(options.data)
    if not path.exists():
        raise UserError(f"data: there is no {path}{_beside(path)}")
    if path.is_file() and options.split:
        raise UserError(f"split: {path} is one file, which has no splits")
    table = _saved(path, options.split) if path.is_dir() else Table(str(path), _reader(path)(path), {})
    if not table.rows:
        raise UserError(f"data: {table.place} has no rows")
    return table


def _beside(path: Path) -> str:
    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    return nearest(path.name, names) if names else ""


def _reader(path: Path) -> Callable[[Path], list[Row]]:
    readers = {".csv": _csv, ".tsv": _csv, ".jsonl": _json_lines, ".parquet": _parquet}
    if path.suffix not in readers:
        raise UserError(f"data: {path}: expected a folder or a file that ends with {listed(readers)}")
    return readers[path.suffix]


def _saved(path: Path, split: str | None) -> Table:
    import datasets

    try:
        found = datasets.load_from_disk(str(path))
    except Exception as error:  # whatever is wrong with the folder
        raise UserError(f"data: {path} is not a folder that datasets' save_to_disk wrote: {error}") from error
    if isinstance(found, datasets.DatasetDict):
        if split not in found:
            wish = f"there is no split {split!r}{nearest(split, found)}" if split else f"has splits: {listed(found)}"
            raise UserError(f"split: {path}: {wish}; say which")
        found = found[split]
    elif split is not None:
        raise UserError(f"split: {path} holds one data set, which has no splits")
    names = {name: kind.names for name, kind in found.features.items() if isinstance(kind, datasets.ClassLabel)}
    return Table(f"{path}" + (f" ({split})" if split else ""), found.to_list(), names)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"data: {path} is not UTF-8 text: {error}") from error


def _csv(path: Path) -> list[Row]:
    lines = _text(path).splitlines(keepends=True)
    reader = csv.DictReader(lines, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
    rows: list[Row] = []
    try:
        for row in reader:
            if None in row or None in row.values():
                width = len(reader.fieldnames or ())
                raise UserError(f"data: {path}, line {reader.line_num}: expected {width} values, as in the first line")
            rows.append(dict(row))
    except csv.Error as error:
        raise UserError(f"data: {path}, line {reader.line_num}: {error}") from error
    return rows


def _json_lines(path: Path) -> list[Row]:
    return list(_json_rows(path))


def _json_rows(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"data: {path}, line {number}: is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise UserError(f"data: {path}, line {number}: found {row!r}, expected an object such as {{'text': ...}}")
        yield row


def _parquet(path: Path) -> list[Row]:
    from pyarrow import ArrowException, parquet

    try:
        rows: list[Row] = parquet.read_table(path).to_pylist()
    except (ArrowException, OSError) as error:
        raise UserError(f"data: {path} is not a Parquet file: {error}") from error
    return rows
