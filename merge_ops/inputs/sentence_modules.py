"""The modules of sentence-transformers in a model's folder, such as pooling and dense layers behind the encoder."""

from collections.abc import Sequence
from pathlib import Path

from mergesearch.files import digest
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.checkpoint.side_files import SENTENCE_MODULES, side_files


def module_warnings(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """Returns a warning for each module that is not the first checkpoint's in another one. They are never merged."""
    template, *others = checkpoints
    return [
        f"{name}: differs between {template.reference} and {checkpoint.reference}; modules of "
        f"sentence-transformers are not merged: the result has what {template.reference} has"
        for checkpoint in others
        for name in differing_modules(template, checkpoint)
    ]


def differing_modules(template: Checkpoint, other: Checkpoint) -> list[str]:
    """Returns the files of modules that are not the same in both. A checkpoint without modules has the template's."""
    own, theirs = _modules(template.folder), _modules(other.folder)
    return sorted(name for name in {**own, **theirs} if theirs and own.get(name) != theirs.get(name))


def _modules(folder: Path | None) -> dict[str, str]:
    """Returns the digest of each file of a module, by its path in the folder."""
    files = side_files(folder, (SENTENCE_MODULES,)) if folder else ()
    return {str(file.relative_to(folder)): digest(file) for file in files if folder}
