"""Batches of token sequences: which sequences go through the model together, and which logits are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mergesearch.evaluators.inference.prefix_tree import (
    TokenTree,
    TreeAttention,
    build_trees,
    row_work,
    tree_attention,
)

TOKENS_PER_LOGITS = 4
"""A batch has at most one position with logits, which are a whole vocabulary, per so many tokens of the budget."""
MASK_ELEMENTS_PER_TOKEN = 1_024
"""The maximum number of elements of the attention mask per token of the budget."""


@dataclass(frozen=True)
class Request:
    """The token ids of a continuation, whose log-probability after a context is wanted. Neither is empty."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


@dataclass(frozen=True)
class BatchLimits:
    """The maximum size of batches.

    Attributes:
        max_length: Tokens of a sequence. Longer ones lose tokens on the left, as in lm-eval.
        rows: Rows of a batch.
        tokens: Tokens of a batch with more than one row, padding included.
    """

    max_length: int
    rows: int
    tokens: int


@dataclass(frozen=True)
class Batch:
    """Rows, padded on the right, and what to read from their logits.

    Attributes:
        ids: [rows, length] int64.
        positions: [positions] int64, indices into the flattened ``ids``: where logits are needed.
        logit_index: [tokens] int64, for each continuation token the index in ``positions`` of the logits for it.
        token_ids: [tokens] int64, the continuation tokens.
        request_index: [tokens] int64 on the CPU, the request that each continuation token belongs to.
        attention: If rows are trees of tokens. Otherwise None.
    """

    ids: Tensor
    positions: Tensor
    logit_index: Tensor
    token_ids: Tensor
    request_index: Tensor
    attention: TreeAttention | None


@dataclass(frozen=True)
class BatchPlan:
    """The batches of ``request_count`` requests."""

    batches: tuple[Batch, ...]
    request_count: int

    @property
    def row_length(self) -> int:
        """Tokens of the longest row."""
        return max((batch.ids.shape[1] for batch in self.batches), default=0)

    def largest(self) -> BatchPlan:
        """Only the batches with the most tokens, the most logits and the largest attention mask."""
        sizes = (
            lambda batch: batch.ids.numel(),
            lambda batch: batch.positions.numel(),
            lambda batch: batch.ids.numel() * batch.ids.shape[1],
        )
        return BatchPlan(tuple(max(self.batches, key=size) for size in sizes if self.batches), self.request_count)


@dataclass(frozen=True)
class _Sequence:
    """The tokens that the model gets for some requests, which differ in their last token only.

    Attributes:
        tokens: Token ids.
        requests: Indices of the requests.
        needed: How many of the last positions are needed.
    """

    tokens: tuple[int, ...]
    requests: tuple[int, ...]
    needed: int


def plan_batches(
    requests: Sequence[Request], limits: BatchLimits, device: torch.device, width: int | None = None
) -> BatchPlan:
    """Batches of rows of similar length, longest first. Requests with the same input tokens share a sequence.

    Args:
        requests: The requests.
        limits: The maximum size of a batch.
        device: Where the batches' tensors are.
        width: Size of the model's hidden states, to share common prefixes (see ``prefix_tree``). None: do not share.
    """
    sequences = _sequences(requests, limits.max_length)
    rows = sorted(_rows(sequences, width), key=len, reverse=True)
    owners = [sequence.requests for sequence in sequences]
    groups = _batch_rows(rows, limits, masked=width is not None)
    batches = tuple(_batch(group, owners, requests, device, width is not None) for group in groups)
    return BatchPlan(batches, len(requests))


def work_saved(requests: Sequence[Request], max_length: int, width: int) -> float:
    """The fraction of the model's work that is saved when common prefixes are shared; see ``row_work``."""
    sequences = _sequences(requests, max_length)
    alone, shared = (sum(row_work(len(row), width) for row in _rows(sequences, each)) for each in (None, width))
    return 1 - shared / alone if alone else 0.0


def _sequences(requests: Sequence[Request], max_length: int) -> list[_Sequence]:
    by_tokens: dict[tuple[int, ...], list[int]] = {}
    for index, request in enumerate(requests):
        tokens = (request.context + request.continuation)[-(max_length + 1) : -1]
        by_tokens.setdefault(tokens, []).append(index)
    return [
        _Sequence(tokens, tuple(indices), max(len(requests[n].continuation) for n in indices))
        for tokens, indices in sorted(by_tokens.items(), key=lambda entry: (-len(entry[0]), entry[0]))
    ]


def _rows(sequences: Sequence[_Sequence], width: int | None) -> list[TokenTree]:
    """One row per sequence, or trees if there is a ``width``."""
    if width is None:
        return [_single_row(index, sequence) for index, sequence in enumerate(sequences)]
    return build_trees([each.tokens for each in sequences], [each.needed for each in sequences], width)


def _single_row(index: int, sequence: _Sequence) -> TokenTree:
    length = len(sequence.tokens)
    return TokenTree(list(sequence.tokens), paths={index: list(range(length - sequence.needed, length))})


def _batch_rows(rows: Sequence[TokenTree], limits: BatchLimits, masked: bool) -> Iterator[list[TokenTree]]:
    """The rows of each batch, the longest first. All rows are padded to its length.

    masked: Whether there is an attention mask of [rows, length, length].
    """
    batch: list[TokenTree] = []
    logits = 0
    for row in rows:
        length, count = len(batch[0] if batch else row), len(batch) + 1
        logits += len(row.needed_nodes)
        is_full = (
            count > limits.rows
            or count * length > limits.tokens
            or logits > max(limits.tokens // TOKENS_PER_LOGITS, 1)
            or (masked and count * length**2 > limits.tokens * MASK_ELEMENTS_PER_TOKEN)
        )
        if batch and is_full:
            yield batch
            batch, logits = [], len(row.needed_nodes)
        batch.append(row)
    if batch:
        yield batch


def _batch(
    rows: Sequence[TokenTree],
    owners: Sequence[Sequence[int]],
    requests: Sequence[Request],
    device: torch.device,
    has_trees: bool,
) -> Batch:
    """The tensors of a batch. owners: for each sequence the indices of its requests."""
    length = len(rows[0])
    ids = [row.tokens + [0] * (length - len(row)) for row in rows]
    positions = [number * length + node for number, row in enumerate(rows) for node in row.needed_nodes]
    tokens = torch.tensor(list(_continuation_tokens(rows, owners, requests)))
    logit_index, token_ids, request_index = tokens.T.contiguous()
    return Batch(
        ids=torch.tensor(ids, device=device),
        positions=torch.tensor(positions, device=device),
        logit_index=logit_index.to(device),
        token_ids=token_ids.to(device),
        request_index=request_index,
        attention=tree_attention(rows, length, device) if has_trees else None,
    )


def _continuation_tokens(
    rows: Sequence[TokenTree], owners: Sequence[Sequence[int]], requests: Sequence[Request]
) -> Iterator[tuple[int, int, int]]:
    """For each continuation token (index of its logits, token id, index of its request)."""
    start = 0
    for row in rows:
        logit_index = {node: start + n for n, node in enumerate(row.needed_nodes)}
        start += len(logit_index)
        for sequence, path in row.paths.items():
            for owner in owners[sequence]:
                continuation = requests[owner].continuation
                nodes = path[-len(continuation) :]
                yield from ((logit_index[n], token, owner) for n, token in zip(nodes, continuation, strict=True))
