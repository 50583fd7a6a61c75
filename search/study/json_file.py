"""JSON files of a run's folder, checked as they are read."""

from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from mergesearch.errors import DamagedFileError
from mergesearch.parsing import first_problem
from mergesearch.reading import read_bytes

Content = TypeVar("Content")


def read_json(file: Path, kind: type[Content], remedy: str) -> Content | None:
    """The content of a JSON file as ``kind``, any type that pydantic checks; None where there is no file.

    Raises DamagedFileError, whose message ends with the ``remedy``, where the file is not what was written.
    """
    if not file.exists():
        return None
    try:
        return TypeAdapter(kind).validate_json(read_bytes(file), strict=True)
    except ValidationError as error:
        raise DamagedFileError(file, f"is damaged: {first_problem(error)}", remedy) from None
