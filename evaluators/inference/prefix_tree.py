"""Sequences with common beginnings, folded into one row each: every shared token goes through the model once.

A row is a tree of tokens, written depth first. A token attends to itself and its ancestors alone (a 4-D attention
mask) and its position is its depth, so that each path from the root is what its sequence would be by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

MAX_ROW = 4_096
"""The most tokens of a row that holds more than one sequence."""


@dataclass
class Row:
    """tokens, depths: of each node, depth first. ends: the node after the last of its descendants.

    paths: for each sequence put in, by its number, the nodes of its last positions, as many as were asked for.
    """

    tokens: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    paths: dict[int, list[int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def needed(self) -> list[int]:
        """The nodes of all paths, each once; not to be asked for before the row is whole."""
        return sorted({node for path in self.paths.values() for node in path})


@dataclass(frozen=True)
class Layout:
    """What the attention of a batch of rows needs. positions, ends: [rows, length] int64."""

    positions: Tensor
    ends: Tensor

    def mask(self, dtype: torch.dtype) -> Tensor:
        """[rows, 1, length, length], to be added to the attention's scores: 0 where a token sees another."""
        place = torch.arange(self.ends.shape[1], device=self.ends.device)
        seen = (place <= place[:, None]) & (place[:, None] < self.ends[:, None, :])
        hidden = torch.full(seen.shape, torch.finfo(dtype).min, dtype=dtype, device=seen.device)
        return hidden.masked_fill_(seen, 0)[:, None]


def fold(sequences: Sequence[tuple[int, ...]], tails: Sequence[int], width: int) -> list[Row]:
    """Rows for the sequences, those that begin alike together where that is less work.

    tails: how many of a sequence's last positions are needed. width: of the model's hidden states.
    """
    rows: list[Row] = []
    path: list[int] = []
    previous: tuple[int, ...] = ()
    for number in sorted(range(len(sequences)), key=lambda number: sequences[number]):
        tokens = sequences[number]
        shared = shared_length(previous, tokens)
        if not rows or not _joins(len(rows[-1]), len(tokens), shared, width):
            rows.append(Row())
            path, shared = [], 0
        _append(rows[-1], path, tokens, shared)
        rows[-1].paths[number] = path[-tails[number] :]
        previous = tokens
    return rows


def work(length: int, width: int) -> int:
    """Of one row, in multiply-adds of a layer by a constant: 12 width² a token and 2 · length · width of attention.

    A masked attention runs at about a quarter of a matrix product's speed.
    """
    return length * (6 * width + 4 * length)


def _joins(row: int, length: int, shared: int, width: int) -> bool:
    together = row + length - shared
    return shared > 0 and together <= MAX_ROW and work(together, width) < work(row, width) + work(length, width)


def shared_length(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens both begin with."""
    for place, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return place
    return min(len(a), len(b))


def _append(row: Row, path: list[int], tokens: tuple[int, ...], shared: int) -> None:
    """Puts the sequence's own tokens under its path, whose first ``shared`` nodes it has in common with the last."""
    del path[shared:]
    for depth in range(shared, len(tokens)):
        path.append(len(row.tokens))
        row.tokens.append(tokens[depth])
        row.depths.append(depth)
        row.ends.append(0)
    for node in path:
        row.ends[node] = len(row.tokens)


def layout(rows: Sequence[Row], length: int, device: torch.device) -> Layout:
    """Of rows padded to ``length``; a padding token sees what comes before it, and nobody sees it."""
    positions = [row.depths + [0] * (length - len(row)) for row in rows]
    ends = [row.ends + list(range(len(row) + 1, length + 1)) for row in rows]
    return Layout(torch.tensor(positions, device=device), torch.tensor(ends, device=device))
