"""The modules of sentence-transformers in a model's folder, such as pooling and dense layers behind the encoder."""

from collections.abc import Sequence
from pathlib import Path

from mergesearch.files import digest
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.checkpoint.side_files import SENTENCE_MODULES, side_files


def module_warnings(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """Returns a warning for each module that is not the first checkpoint's in another one. They are never merged."""
    template, *others = checkpoints
    own = _modules(template.folder)
    warnings = []
    for checkpoint in others:
        theirs = _modules(checkpoint.folder)
        differing = [name for name in {**own, **theirs} if theirs and own.get(name) != theirs.get(name)]
        warnings += [
            f"{name}: differs between {template.reference} and {checkpoint.reference}; modules of "
            f"sentence-transformers are not merged: the result has what {template.reference} has"
            for name in sorted(differing)
        ]
    return warnings


def _modules(folder: Path | None) -> dict[str, str]:
    """Returns the digest of each file of a module, by its path in the folder."""
    files = side_files(folder, (SENTENCE_MODULES,)) if folder else ()
    return {str(file.relative_to(folder)): digest(file) for file in files if folder}
