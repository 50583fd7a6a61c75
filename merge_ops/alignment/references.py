"""References to aligned copies, such as ``MODEL aligned to OTHER by weights``, and the copies in their place."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mergesearch.merge_ops.checkpoint.references import ModelReference, parse_reference


def plain_references(references: Sequence[str]) -> list[str]:
    """Returns the checkpoints that these need: in place of an aligned one, the model and what it is to fit."""
    return list(dict.fromkeys(needed for reference in references for needed in _needed(reference)))


def _needed(reference: str) -> Iterator[str]:
    parsed = parse_reference(reference)
    yield str(replace(parsed, aligned=None)) if parsed.aligned else reference
    if parsed.aligned:
        yield parsed.aligned.to


def aligned_paths(references: Sequence[str], named_paths: Mapping[str, Path] | None) -> Mapping[str, Path]:
    """Returns ``named_paths`` with the path of a copy for each reference that is aligned.

    A copy is made once in a process, in the folder for temporary files.

    Raises:
        UserError: models cannot be aligned.
    """
    found = {reference: parse_reference(reference) for reference in references}
    aligned = {reference: parsed for reference, parsed in found.items() if parsed.aligned}
    return {
        **(named_paths or {}),
        **{r: _copy(str(replace(p, aligned=None)), p, named_paths) for r, p in aligned.items()},
    }


def _copy(model: str, parsed: ModelReference, named_paths: Mapping[str, Path] | None) -> Path:
    from mergesearch.merge_ops.alignment.aligned import aligned_copy

    assert parsed.aligned is not None
    return aligned_copy(model, parsed.aligned, named_paths).folder.path
