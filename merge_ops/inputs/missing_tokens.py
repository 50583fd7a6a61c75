"""Rows of tokens that a model lacks, made of the rows that it has."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from mergesearch.merge_ops.inputs.matching_pursuit import matching_pursuit

TokenRows = dict[str, int]
"""The row of each token."""
BROKEN = "\ufffd"
"""What a tokenizer shows of bytes that are no whole character."""


def text_of(index: int, tokenizer: Any) -> str:
    """Returns the text of a token, given by its id, behind another one: with a space before it if it begins a word.

    It is empty for a token that is a part of a character.
    """
    one, two = (tokenizer.decode([index] * count, clean_up_tokenization_spaces=False) for count in (1, 2))
    text = two.removeprefix(one)
    return "" if BROKEN in text else str(text)


def subtoken_means(texts: Mapping[str, str], rows: Tensor, tokenizer: Any) -> Iterator[tuple[str, Tensor]]:
    """Yields for each token the mean of the rows of the tokens that its text is for a model.

    Tokens without a text, or of whose text the model knows nothing, are left out.

    Args:
        texts: the text of each token.
        rows: the model's embedding, of shape (rows, ...).
        tokenizer: the model's tokenizer.
    """
    known = {token: text for token, text in texts.items() if text}
    if not known:
        return
    pieces = tokenizer(list(known.values()), add_special_tokens=False, verbose=False)["input_ids"]
    for token, indices in zip(known, pieces, strict=True):
        found = [index for index in indices if index != tokenizer.unk_token_id and index < len(rows)]
        if found:
            yield token, rows[found].double().mean(0).to(rows.dtype)


def sparse_combinations(
    tokens: Sequence[str], own: tuple[Tensor, TokenRows], donor: tuple[Tensor, TokenRows], k: int
) -> Iterator[tuple[str, Tensor]]:
    """Yields for each token the row that orthogonal matching pursuit over shared tokens gives.

    Goddard and Neto, "Training-Free Tokenizer Transplantation via Orthogonal Matching Pursuit", arXiv:2506.06607: in
    the donor, the token's row is approximated by those of at most k tokens that both models have,

        D[token] ≈ sum_i c_i D[s_i],

    and the same combination of the model's own rows, sum_i c_i E[s_i], is its row.

    Args:
        tokens: the tokens, which the donor has.
        own: the model's embedding, [rows, width], and the row of each token.
        donor: those of a model that has the tokens. Its width may be another one.
        k: how many tokens are combined at most.
    """
    (rows, row_of), (theirs, their_row_of) = own, donor
    shared = [token for token in their_row_of if token in row_of]
    found = matching_pursuit(
        theirs[[their_row_of[token] for token in tokens]], theirs[[their_row_of[token] for token in shared]], k
    )
    made = found.combined(rows[[row_of[token] for token in shared]]).to(rows.dtype)
    yield from zip(tokens, made.unbind(0), strict=True)
