"""Token sequences with common prefixes as trees: each shared token goes through the model once.

A tree is one row of a batch, its tokens in depth-first order. A token attends to itself and to its ancestors only, by a
4-D attention mask, and its position is its depth. So each path from the root gives what its sequence alone would give.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import pad

MAX_TREE_TOKENS = 4_096
"""The maximum number of tokens of a tree with more than one sequence."""


@dataclass
class TokenTree:
    """One or more token sequences, written as one row.

    Attributes:
        tokens: Token ids of the nodes, in depth-first order.
        depths: Depth of each node.
        ends: For each node the index after its last descendant.
        paths: For each sequence, by its index, the nodes of its last positions: those whose logits are needed.
    """

    tokens: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    paths: dict[int, list[int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def needed_nodes(self) -> list[int]:
        """The nodes of all paths, each once, in order. To be read only after the last sequence was added."""
        return sorted({node for path in self.paths.values() for node in path})


@dataclass(frozen=True)
class TreeAttention:
    """Positions and attention of a batch of trees.

    Attributes:
        positions: [trees, length] int64, the position of each token.
        ends: [trees, length] int64, see ``TokenTree.ends``.
        start: Tokens of the stem before all trees, to which all tokens attend.
    """

    positions: Tensor
    ends: Tensor
    start: int = 0

    def mask(self, dtype: torch.dtype) -> Tensor:
        """[trees, 1, length, start + length], to be added to scores: 0 if a token attends to another, else -inf.

        Every token attends to itself. On a CPU, -inf is faster than the lowest number.
        """
        index = torch.arange(self.ends.shape[1], device=self.ends.device)
        visible = (index <= index[:, None]) & (index[:, None] < self.ends[:, None, :])
        visible = pad(visible, (self.start, 0), value=True)
        mask = torch.full(visible.shape, -torch.inf, dtype=dtype, device=visible.device)
        return mask.masked_fill_(visible, 0)[:, None]


def build_trees(
    sequences: Sequence[tuple[int, ...]], needed: Sequence[int], width: int, start: int = 0
) -> list[TokenTree]:
    """Puts sequences with a common prefix into one tree if that is less work for the model.

    Args:
        sequences: Token ids, without the stem that stands before all of them.
        needed: For each sequence how many of its last positions are needed.
        width: Size of the model's hidden states.
        start: Tokens of the stem.
    """
    order, shared = in_order(sequences)
    trees = []
    for places, _ in tree_sizes([len(sequences[index]) for index in order], shared, width, start):
        trees.append(tree := TokenTree())
        path: list[int] = []
        for place in places:
            index = order[place]
            _append(tree, path, sequences[index], shared[place] if path else 0)
            tree.paths[index] = path[-needed[index] :]
    return trees


def in_order(sequences: Sequence[tuple[int, ...]]) -> tuple[list[int], list[int]]:
    """The lexicographic order of the sequences; for each in it how many tokens it shares with the one before."""
    order = sorted(range(len(sequences)), key=lambda index: sequences[index])
    shared = [common_prefix_length(sequences[a], sequences[b]) for a, b in pairwise(order)]
    return order, [0, *shared][: len(order)]


def tree_sizes(
    lengths: Sequence[int], shared: Sequence[int], width: int, start: int = 0
) -> Iterator[tuple[range, int]]:
    """Which sequences, in lexicographic order, share a tree: the places of each tree, and its tokens.

    lengths: Tokens of each sequence. shared: see ``in_order``. The others are those of ``build_trees``.
    """
    first, size = 0, 0
    for place, (length, common) in enumerate(zip(lengths, shared, strict=True)):
        if place > first and _is_less_work_in_one_tree(size, length, common, width, start):
            size += length - common
            continue
        if place:
            yield range(first, place), size
        first, size = place, length
    if lengths:
        yield range(first, len(lengths)), size


def row_work(length: int, width: int, start: int = 0) -> int:
    """The model's work for one row behind a stem of ``start`` tokens, up to a constant factor.

    A layer has 12 · width² multiply-adds per token, and 2 · length · width for its attention. Attention with a mask
    runs at about half the speed of a matrix product.
    """
    return length * (6 * width + 2 * (start + length))


def _is_less_work_in_one_tree(tree: int, length: int, shared: int, width: int, start: int) -> bool:
    """Whether a sequence of ``length`` tokens, ``shared`` of them a common prefix, should join a tree of ``tree``."""
    joined = tree + length - shared
    apart = row_work(tree, width, start) + row_work(length, width, start)
    return shared > 0 and joined <= MAX_TREE_TOKENS and row_work(joined, width, start) < apart


def common_prefix_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their beginning."""
    for index, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return index
    return min(len(first), len(second))


def _append(tree: TokenTree, path: list[int], tokens: tuple[int, ...], shared: int) -> None:
    """Adds a sequence whose first ``shared`` nodes are those of ``path``, the sequence added before it.

    ``path`` becomes the nodes of the new sequence.
    """
    del path[shared:]
    for depth in range(shared, len(tokens)):
        path.append(len(tree.tokens))
        tree.tokens.append(tokens[depth])
        tree.depths.append(depth)
        tree.ends.append(0)
    for node in path:
        tree.ends[node] = len(tree.tokens)


def tree_attention(trees: Sequence[TokenTree], length: int, device: torch.device, start: int = 0) -> TreeAttention:
    """The attention of trees that are padded to ``length`` on the right. No other token attends to a padding token.

    start: Tokens of the stem before all of them.
    """
    positions = [tree.depths + [0] * (length - len(tree)) for tree in trees]
    ends = [tree.ends + list(range(len(tree) + 1, length + 1)) for tree in trees]
    return TreeAttention(torch.tensor(positions, device=device) + start, torch.tensor(ends, device=device), start)
