"""What a config says about one task, and about all tasks together."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field

from mergesearch.copies import has_copies, here
from mergesearch.parsing import Strict

Mode = Literal["auto", "exact", "packed"]
"""packed: sequences with a common prefix share its tokens. exact: they do not. auto: they do if that saves work."""


PathKind = Literal["path", "pattern", "code", "command"]


@dataclass(frozen=True)
class OnDisk:
    """Marks an option that names something on the disk, as in ``Annotated[str, OnDisk()]``.

    In a config it is then relative to the config's file, as options of the type ``Path`` are. ``pattern``: a path or a
    glob, or a list of these; ``code``: ``path/to/file.py:name``; ``command``: a program and its arguments.
    """

    kind: PathKind = "path"


class EvaluatorOptions(Strict):
    """Options of one task. Every evaluator has its own subclass."""

    task: str = Field(min_length=1, description="The task's name")


def path_options(options: type[EvaluatorOptions]) -> dict[str, PathKind]:
    """The options that name something on the disk, by their keys."""
    found: dict[str, PathKind] = {}
    for name, info in options.model_fields.items():
        marks: list[PathKind] = [mark.kind for mark in info.metadata if isinstance(mark, OnDisk)]
        if Path in (info.annotation, *get_args(info.annotation)):
            marks.append("path")
        if marks:
            found[info.alias or name] = marks[0]
    return found


def options_here(options: EvaluatorOptions) -> EvaluatorOptions:
    """The options with what they name on the disk where this machine has it; see ``here``."""
    if not has_copies():
        return options
    keys = {info.alias or name: name for name, info in type(options).model_fields.items()}
    kinds = {keys[key]: kind for key, kind in path_options(type(options)).items() if kind != "code"}  # see ``load``
    found = {name: _here(getattr(options, name), kind) for name, kind in kinds.items()}
    return options.model_copy(update=found)


def _here(value: Any, kind: PathKind) -> Any:
    if kind == "command" and isinstance(value, str):
        value = shlex.split(value)
    if isinstance(value, list):
        return [here(each) for each in value]
    return type(value)(here(str(value))) if isinstance(value, str | Path) else value


class Shared(Strict):
    """Options that are the same for all tasks."""

    include_path: Path | None = Field(None, description="Folder with your own lm-eval task YAML files")
    group: str | None = Field(
        None, description="Field of the documents; documents with the same value stay on the same side of the split"
    )
    batch_size: int = Field(32, gt=0, description="Maximum number of sequences in a batch")
    max_length: int | None = Field(
        None, gt=1, description="Maximum tokens of a sequence, longer ones are cut; default: the model's context"
    )
    mode: Mode = Field(
        "auto",
        description="packed: sequences with a common prefix share its tokens; exact: they do not; "
        "auto: packed if that saves work and gives the same numbers",
    )
    compile: bool = Field(False, description="Score with torch.compile on a GPU")
