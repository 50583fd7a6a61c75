"""Tables in a run's folder, as Parquet files that are complete or absent."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from mergesearch.errors import DamagedFileError, UserError, in_words, listed
from mergesearch.files import atomic_path
from mergesearch.reading import check_file

ABOUT = b"mergesearch"
"""The key of the file's metadata that says what belongs to the whole table."""
REMEDY = "run the config again, which writes it anew from the scores"


def write_table(file: Path, columns: Mapping[str, Sequence[Any]], about: bytes = b"") -> None:
    """Writes a table atomically."""
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.Table.from_pydict(dict(columns)).replace_schema_metadata({ABOUT: about})
    with atomic_path(file) as temporary:
        parquet.write_table(table, temporary, write_page_checksum=True)


def read_table(file: Path, names: Collection[str]) -> tuple[dict[str, list[Any]], bytes]:
    """A table's columns, and what was written about it. Raises UserError where it is missing, damaged, or lacks one."""
    from pyarrow import ArrowException, parquet

    if not file.exists():
        raise UserError(f"{file.parent}: has no {file.name}; run its config to its end, or again")
    check_file(file)
    try:
        table = parquet.read_table(file, page_checksum_verification=True)
        columns: dict[str, list[Any]] = table.to_pydict()
        about = (table.schema.metadata or {}).get(ABOUT, b"")
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise DamagedFileError(file, f"is damaged ({in_words(error).splitlines()[0]})", REMEDY) from None
    if missing := set(names) - columns.keys():
        raise DamagedFileError(file, f"has no column {listed(missing)}", REMEDY)
    return columns, bytes(about)
