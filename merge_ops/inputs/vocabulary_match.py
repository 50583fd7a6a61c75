"""Checks whether the rows of embeddings that are merged stand for the same tokens in all models.

Models of one shape may number their tokens differently. Merged row by row, each token's embedding is then mixed with
another token's, and nothing about the shapes tells.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mergesearch.errors import UserError, listed
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.inputs.aligned_names import AlignedCheckpoint
from mergesearch.merge_ops.inputs.stored_tokens import Tokens, stored_tokens
from mergesearch.merge_ops.inputs.tokenizer import vocabulary_files
from mergesearch.merge_ops.recipe.vocabulary_config import TokenizerConfig

MOST_RENAMED = 0.1
"""The largest share of rows that may stand for other tokens. Fine-tunes give names to a few tokens that were reserved;
vocabularies that were made separately share a few rows by chance."""
HINT = "`tokenizer_source: base` (or union, or a model) in the recipe merges each token's rows, wherever they are"


@dataclass(frozen=True)
class Difference:
    """The rows that stand for different tokens in two vocabularies.

    Attributes:
        rows: these rows, in ascending order.
        shared: the number of rows that stand for a token in both.
        example: the two tokens of the first of the rows.
    """

    rows: Sequence[int]
    shared: int
    example: tuple[str, str]


def check_rows(entries: Sequence[AlignedCheckpoint], rows: int) -> list[str]:
    """Returns warnings about the first checkpoint's vocabulary and the others'.

    Args:
        entries: the checkpoints whose embeddings are merged row by row.
        rows: the number of rows.

    Raises:
        UserError: most tokens have other rows in another checkpoint.
    """
    vocabularies: dict[str, Tokens] = {}
    warnings = []
    for entry in entries:
        try:
            tokens = stored_tokens(entry.checkpoint)
        except UserError as error:
            warnings.append(f"{error}; whether the rows of its embeddings stand for the others' tokens is not known")
            continue
        if tokens is not None:
            vocabularies[entry.reference] = tokens
    return warnings + _warnings(vocabularies, rows)


def tokenizer_warnings(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """Returns a warning if the first checkpoint, whose files the result gets, has no tokenizer and another one has."""
    template, *others = checkpoints
    owners = [other.reference for other in others if other.folder and vocabulary_files(other.folder)]
    if not owners or not template.folder or vocabulary_files(template.folder):
        return []
    return [f"{template.reference} has no tokenizer, so the result has none; {listed(owners)} has one"]


def changes_nothing(config: TokenizerConfig, checkpoints: Sequence[Checkpoint], rows: int) -> bool:
    """Returns whether a recipe's ``tokenizer`` leaves all rows as they are, because all vocabularies are equal.

    Args:
        config: the ``tokenizer`` section of the recipe.
        checkpoints: the models. One without a tokenizer counts as having the base's.
        rows: the number of rows of their embeddings.

    Raises:
        UserError: a vocabulary cannot be read.
    """
    if config.tokens or rows % (config.pad_to_multiple_of or 1):
        return False
    sources = [] if config.source in ("base", "union") else [Checkpoint(config.source)]
    found = [tokens for tokens in map(stored_tokens, [*checkpoints, *sources]) if tokens is not None]
    return bool(found) and all(tokens == found[0] for tokens in found)


def _warnings(vocabularies: Mapping[str, Tokens], rows: int) -> list[str]:
    if not vocabularies:
        return []
    (first, tokens), *others = vocabularies.items()
    warnings = []
    for reference, other in others:
        difference = differing_rows(tokens, other, rows)
        if difference is None:
            continue
        text = _description(first, reference, difference)
        if len(difference.rows) > MOST_RENAMED * difference.shared:
            raise UserError(f"{text}; {HINT}")
        warnings.append(f"{text}; they are merged row by row; {HINT}")
    return warnings


def _description(first: str, second: str, difference: Difference) -> str:
    mine, theirs = difference.example
    return (
        f"{first} and {second} have different vocabularies: {len(difference.rows)} of {difference.shared} rows of the "
        f"embeddings stand for another token (row {difference.rows[0]}: {mine!r} and {theirs!r})"
    )


def differing_rows(tokens: Tokens, other: Tokens, rows: int) -> Difference | None:
    """Returns those of the first ``rows`` rows that stand for different tokens, or None if there are none."""
    if tokens == other:
        return None
    token_of, other_token_of = ({row: token for token, row in each.items() if row < rows} for each in (tokens, other))
    shared = sorted(token_of.keys() & other_token_of.keys())
    differing = [row for row in shared if token_of[row] != other_token_of[row]]
    if not differing:
        return None
    return Difference(differing, len(shared), (token_of[differing[0]], other_token_of[differing[0]]))
