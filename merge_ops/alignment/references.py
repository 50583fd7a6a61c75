"""References to aligned copies, such as ``MODEL aligned to OTHER by weights``, and the copies in their place."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mergesearch.merge_ops.checkpoint.references import parse_reference, without_alignment


def plain_references(references: Sequence[str]) -> list[str]:
    """Returns the checkpoints that these need: in place of an aligned one, the model and what it is to fit."""
    return list(dict.fromkeys(needed for reference in references for needed in _needed(reference)))


def _needed(reference: str) -> Iterator[str]:
    yield without_alignment(reference)
    if alignment := parse_reference(reference).aligned:
        yield alignment.to


def aligned_paths(references: Sequence[str], named_paths: Mapping[str, Path] | None) -> Mapping[str, Path]:
    """Returns ``named_paths`` with the path of a copy for each reference that is aligned.

    A copy is made once in a process, in the folder for temporary files.

    Raises:
        UserError: models cannot be aligned.
    """
    paths = dict(named_paths or {})
    for reference in references:
        if alignment := parse_reference(reference).aligned:
            from mergesearch.merge_ops.alignment.aligned import aligned_copy

            copy = aligned_copy(without_alignment(reference), alignment, named_paths)
            paths[reference] = copy.folder.path
    return paths
