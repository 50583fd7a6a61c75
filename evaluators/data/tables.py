"""Tables on disk, whose rows become items: a folder saved by ``datasets``, CSV, JSON lines or Parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from mergesearch.errors import UserError, listed, nearest
from mergesearch.evaluators.contract.options import EvaluatorOptions, OnDisk
from mergesearch.evaluators.data.content import content_hash, content_text
from mergesearch.reading import read_bytes
from mergesearch.text import quoted


class TableOptions(EvaluatorOptions):
    """Options of tasks whose items are rows of a table."""

    data: Annotated[str, OnDisk()] = Field(
        min_length=1, description="A folder that datasets' save_to_disk wrote, or a .csv, .tsv, .jsonl or .parquet file"
    )
    split: str | None = Field(None, description="The split, if the folder has several")


@dataclass(frozen=True)
class DataTable:
    """Rows of a data set.

    Attributes:
        source: The file or folder, for messages.
        rows: Value by field.
        class_names: For each field of class labels the name of each label, by its number.
    """

    source: str
    rows: Sequence[dict[str, Any]]
    class_names: dict[str, list[str]]

    @cached_property
    def fields(self) -> list[str]:
        """All fields, in the order of their first occurrence."""
        return list(dict.fromkeys(field for row in self.rows for field in row))

    def column(self, field: str, key: str) -> list[Any]:
        """A field's value in every row.

        Args:
            field: The field.
            key: The key in the config that names the field, for messages.

        Raises:
            UserError: There is no such field, or a row has no value for it.
        """
        if field not in self.fields:
            raise UserError(f"{key}: {self.source} has no field {field!r}{nearest(field, self.fields)}")
        values = [row.get(field) for row in self.rows]
        if None in values:
            raise UserError(f"{key}: {self.source}, row {values.index(None)}: field {field!r} has no value")
        return values

    def texts(self, field: str, key: str) -> list[str]:
        """See ``column``; raises UserError for values that are no strings."""
        values = self.column(field, key)
        for row, value in enumerate(values):
            if not isinstance(value, str):
                raise self.wrong_value(field, key, row, value, "a string")
        return values

    def numbers(self, field: str, key: str) -> list[float]:
        """See ``column``; raises UserError for values that are no finite numbers. Strings such as ``"0.5"`` are."""
        return [self._number(row, field, key, value) for row, value in enumerate(self.column(field, key))]

    def _number(self, row: int, field: str, key: str, value: Any) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = float("nan")
        if number - number != 0:  # infinite or NaN
            raise self.wrong_value(field, key, row, value, "a finite number")
        return number

    def wrong_value(self, field: str, key: str, row: int, value: object, expected: str) -> UserError:
        """The error for a row's value that is not what was expected."""
        return UserError(f"{key}: {self.source}, row {row}: field {field!r} is {value!r}, expected {expected}")

    def fingerprints(self, fields: Sequence[str], group: str | None) -> list[str]:
        """For each row a hash of these fields, or of the field ``group`` if there is one."""
        columns = [self.column(field, "group" if group else "data") for field in ([group] if group else fields)]
        return [content_hash(values) for values in zip(*columns, strict=True)]

    def hashes(self, fields: Sequence[str], group: str | None) -> list[str]:
        """For each row what ``Item.content`` is."""
        found = self.fingerprints(fields, None)
        return found if group else [""] * len(found)

    def contents(self, fields: Sequence[str], group: str | None) -> list[str]:
        """For each row the text of these fields, to find near-duplicates; empty if there is a ``group``."""
        columns = [self.column(field, "data") for field in fields]
        return [content_text(values) if group is None else "" for values in zip(*columns, strict=True)]


def read_table(options: TableOptions) -> DataTable:
    """Reads the rows. Raises UserError if they cannot be read or there are none."""
    path = Path(options.data)
    if not path.exists():
        neighbours = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"data: there is no {path}{nearest(path.name, neighbours) if neighbours else ''}")
    if path.is_file() and options.split:
        raise UserError(f"split: found {options.split!r}, but {path} is one file and has no splits; remove the key")
    table = _read_folder(path, options.split) if path.is_dir() else DataTable(str(path), _read_file(path), {})
    if not table.rows:
        raise UserError(f"data: {table.source} has no rows")
    return table


def _read_file(path: Path) -> list[dict[str, Any]]:
    readers = {".csv": _read_csv, ".tsv": _read_csv, ".jsonl": _read_json_lines, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise UserError(f"data: found {path}, expected a folder or a file that ends with {listed(readers)}")
    return readers[path.suffix](path)


def _read_folder(path: Path, split: str | None) -> DataTable:
    import datasets

    try:
        data = datasets.load_from_disk(str(path))
    except Exception as error:  # whatever is wrong with the folder
        raise UserError(f"data: {path} is not a folder that datasets' save_to_disk wrote: {error}") from error
    if isinstance(data, datasets.DatasetDict):
        if split is None:
            raise UserError(f"split: is missing; {path} has several splits, name one of: {listed(data)}")
        if split not in data:
            raise UserError(f"split: {path} has no split {split!r}{nearest(split, data)}")
        data = data[split]
    elif split is not None:
        raise UserError(f"split: found {split!r}, but {path} is one data set and has no splits; remove the key")
    labels = {name: kind.names for name, kind in data.features.items() if isinstance(kind, datasets.ClassLabel)}
    return DataTable(f"{path}" + (f" ({split})" if split else ""), data.to_list(), labels)


def _read_text(path: Path) -> str:
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"data: {path} is not UTF-8 text: {error}") from error


def _read_csv(path: Path) -> list[dict[str, Any]]:
    lines = _read_text(path).splitlines(keepends=True)
    reader = csv.DictReader(lines, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
    rows: list[dict[str, Any]] = []
    try:
        for row in reader:
            if None in row or None in row.values():
                width = len(reader.fieldnames or ())
                raise UserError(f"data: {path}, line {reader.line_num}: expected {width} values, as in the first line")
            rows.append(dict(row))
    except csv.Error as error:
        raise UserError(f"data: {path}, line {reader.line_num}: {error}") from error
    return rows


def _read_json_lines(path: Path) -> list[dict[str, Any]]:
    lines = enumerate(_read_text(path).split("\n"), 1)
    return [_json_object(path, number, line) for number, line in lines if line.strip()]


def _json_object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"data: {path}, line {number}: is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise UserError(f"data: {path}, line {number}: found {quoted(row)}, expected an object such as {{'text': ...}}")
    return row


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    from pyarrow import ArrowException, parquet

    try:
        rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    except (ArrowException, OSError) as error:
        raise UserError(f"data: {path} is not a Parquet file: {error}") from error
    return rows
