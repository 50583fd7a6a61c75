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


def write_parquet(file: Path, table: Any) -> None:
    """Writes a table of pyarrow atomically."""
    from pyarrow import parquet

    with atomic_path(file) as temporary:
        parquet.write_table(table, temporary, write_page_checksum=True)


def read_parquet(file: Path, remedy: str) -> Any:
    """A table of pyarrow. Raises DamagedFileError, whose message ends with the ``remedy``; a failing disk's error."""
    from pyarrow import ArrowException, parquet

    if file.exists():
        check_file(file)
    try:
        table = parquet.read_table(file, page_checksum_verification=True)
        table.validate(full=True)
        return table
    except FileNotFoundError:
        raise DamagedFileError(file, "is missing", remedy) from None
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        if getattr(error, "errno", None) is not None:  # it is the disk that fails
            raise
        raise DamagedFileError(file, f"is damaged ({in_words(error).splitlines()[0]})", remedy) from None


def write_table(file: Path, columns: Mapping[str, Sequence[Any]], about: bytes = b"") -> None:
    """Writes a table atomically."""
    import pyarrow

    write_parquet(file, pyarrow.Table.from_pydict(dict(columns)).replace_schema_metadata({ABOUT: about}))


def read_table(file: Path, names: Collection[str]) -> tuple[dict[str, list[Any]], bytes]:
    """A table's columns, and what was written about it. Raises UserError where it is missing, damaged, or lacks one."""
    if not file.exists():
        raise UserError(f"{file.parent}: has no {file.name}; run its config to its end, or again")
    table = read_parquet(file, REMEDY)
    if missing := set(names) - set(table.column_names):
        raise DamagedFileError(file, f"has no column {listed(missing)}", REMEDY)
    return table.to_pydict(), bytes((table.schema.metadata or {}).get(ABOUT, b""))
