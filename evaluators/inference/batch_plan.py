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
from mergesearch.evaluators.inference.stems import Stem, find_stems

TOKENS_PER_LOGITS = 4
"""A batch has at most one position with logits, which are a whole vocabulary, per so many tokens of the budget."""
LOGITS_PER_TOKEN = 8_192
"""More positions if the vocabulary is small: so many numbers per token of the budget."""
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
        cached: Tokens in the keys and values of a batch with more than one row, for sequences that share a stem (see
            ``stems``). 0: they do not.
        padding: Tokens of padding in a batch: with more, another call of the model is less work. None: any.
        vocabulary: Numbers that are the logits of one position. None: not known.
    """

    max_length: int
    rows: int
    tokens: int
    cached: int = 0
    padding: int | None = None
    vocabulary: int | None = None

    @property
    def logits(self) -> int:
        """Positions with logits of a batch with more than one row."""
        numbers = self.tokens * LOGITS_PER_TOKEN // self.vocabulary if self.vocabulary else 0
        return max(self.tokens // TOKENS_PER_LOGITS, numbers, 1)


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
        stem: [1, tokens] int64, the tokens before all rows, whose keys and values are computed once. Neighbouring
            batches have the same tensor if their stem is the same. None: there are none.
    """

    ids: Tensor
    positions: Tensor
    logit_index: Tensor
    token_ids: Tensor
    request_index: Tensor
    attention: TreeAttention | None
    stem: Tensor | None = None


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
            lambda batch: batch.ids.numel() * (batch.ids.shape[1] + _start(batch.stem)),
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


_Owners = Sequence[Sequence[tuple[int, tuple[int, ...]]]]
"""For each sequence the index and the continuation of each of its requests."""


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
    owners = [[(n, requests[n].continuation) for n in sequence.requests] for sequence in sequences]
    batches = []
    for stem, rows in _rows(sequences, width, limits.cached > 0):
        ids = None if stem is None else torch.tensor([stem], device=device)
        rows.sort(key=len, reverse=True)
        for group in _batch_rows(rows, limits, masked=width is not None, start=_start(ids)):
            batches.append(_batch(group, owners, ids, device, width is not None))
    return BatchPlan(tuple(batches), len(requests))


def _start(stem: Tensor | None) -> int:
    return 0 if stem is None else stem.shape[1]


def work_saved(requests: Sequence[Request], max_length: int, width: int, stems: bool) -> float:
    """The fraction of the model's work that is saved when common prefixes are shared; see ``row_work``.

    stems: Whether sequences may share a stem, see ``stems``.
    """
    sequences = _sequences(requests, max_length)
    alone = sum(row_work(len(sequence.tokens), width) for sequence in sequences)
    shared = 0
    for stem, rows in _rows(sequences, width, stems):
        start = len(stem or ())
        shared += row_work(start, width) + sum(row_work(len(row), width, start) for row in rows)
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


def _rows(
    sequences: Sequence[_Sequence], width: int | None, stems: bool
) -> Iterator[tuple[tuple[int, ...] | None, list[TokenTree]]]:
    """One row per sequence, or trees if there is a ``width``: those without a stem, and those behind each stem."""
    if width is None:
        yield None, [_single_row(index, sequence) for index, sequence in enumerate(sequences)]
        return
    tokens, needed = [each.tokens for each in sequences], [each.needed for each in sequences]
    everything = Stem(0, tuple(range(len(sequences))))
    for stem in find_stems(tokens, needed, width) if stems else [everything]:
        members, start = stem.members, stem.length
        trees = build_trees([tokens[n][start:] for n in members], [needed[n] for n in members], width, start)
        for tree in trees:
            tree.paths = {members[place]: path for place, path in tree.paths.items()}
        yield tokens[members[0]][:start] if start else None, trees


def _single_row(index: int, sequence: _Sequence) -> TokenTree:
    length = len(sequence.tokens)
    return TokenTree(list(sequence.tokens), paths={index: list(range(length - sequence.needed, length))})


def _batch_rows(rows: Sequence[TokenTree], limits: BatchLimits, masked: bool, start: int) -> Iterator[list[TokenTree]]:
    """The rows of each batch, the longest first. All rows are padded to its length.

    masked: Whether there is an attention mask of [rows, length, start + length]. start: Tokens of the rows' stem.
    """
    batch: list[TokenTree] = []
    logits = padding = 0
    for row in rows:
        length, count = len(batch[0] if batch else row), len(batch) + 1
        logits += len(row.needed_nodes)
        padding += length - len(row)
        is_full = (
            count > limits.rows
            or count * length > limits.tokens
            or logits > limits.logits
            or (limits.padding is not None and padding > limits.padding)
            or (masked and count * length * (start + length) > limits.tokens * MASK_ELEMENTS_PER_TOKEN)
            or (start > 0 and count * (start + length) > limits.cached)
        )
        if batch and is_full:
            yield batch
            batch, logits, padding = [], len(row.needed_nodes), 0
        batch.append(row)
    if batch:
        yield batch


def _batch(
    rows: Sequence[TokenTree],
    owners: _Owners,
    stem: Tensor | None,
    device: torch.device,
    has_trees: bool,
) -> Batch:
    """The tensors of a batch."""
    length = len(rows[0])
    ids = [row.tokens + [0] * (length - len(row)) for row in rows]
    positions = [number * length + node for number, row in enumerate(rows) for node in row.needed_nodes]
    tokens = torch.tensor(list(_continuation_tokens(rows, owners)))
    logit_index, token_ids, request_index = tokens.T.contiguous()
    return Batch(
        ids=torch.tensor(ids, device=device),
        positions=torch.tensor(positions, device=device),
        logit_index=logit_index.to(device),
        token_ids=token_ids.to(device),
        request_index=request_index,
        attention=tree_attention(rows, length, device, _start(stem)) if has_trees else None,
        stem=stem,
    )


def _continuation_tokens(rows: Sequence[TokenTree], owners: _Owners) -> Iterator[tuple[int, int, int]]:
    """For each continuation token (index of its logits, token id, index of its request)."""
    start = 0
    for row in rows:
        logit_index = {node: start + n for n, node in enumerate(row.needed_nodes)}
        start += len(logit_index)
        for sequence, path in row.paths.items():
            for owner, continuation in owners[sequence]:
                nodes = path[-len(continuation) :]
                yield from ((logit_index[n], token, owner) for n, token in zip(nodes, continuation, strict=True))
