"""What a config says about one task, and about all tasks together."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from mergesearch.parsing import Strict

Mode = Literal["auto", "exact", "packed"]
"""packed: sequences with a common prefix share its tokens. exact: they do not. auto: they do if that saves work."""


class EvaluatorOptions(Strict):
    """Options of one task. Every evaluator has its own subclass."""

    task: str = Field(min_length=1, description="The task's name")


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
