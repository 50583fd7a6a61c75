"""Token sequences with common prefixes as trees: each shared token goes through the model once.

A tree is one row of a batch, its tokens in depth-first order. A token attends to itself and to its ancestors only, by a
4-D attention mask, and its position is its depth. So each path from the root gives what its sequence alone would give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

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
    """

    positions: Tensor
    ends: Tensor

    def mask(self, dtype: torch.dtype) -> Tensor:
        """[trees, 1, length, length], to be added to attention scores: 0 if a token attends to another, else -max."""
        index = torch.arange(self.ends.shape[1], device=self.ends.device)
        visible = (index <= index[:, None]) & (index[:, None] < self.ends[:, None, :])
        mask = torch.full(visible.shape, torch.finfo(dtype).min, dtype=dtype, device=visible.device)
        return mask.masked_fill_(visible, 0)[:, None]


def build_trees(sequences: Sequence[tuple[int, ...]], needed: Sequence[int], width: int) -> list[TokenTree]:
    """Puts sequences with a common prefix into one tree if that is less work for the model.

    Args:
        sequences: Token ids.
        needed: For each sequence how many of its last positions are needed.
        width: Size of the model's hidden states.
    """
    trees: list[TokenTree] = []
    path: list[int] = []
    previous: tuple[int, ...] = ()
    for index in sorted(range(len(sequences)), key=lambda index: sequences[index]):
        tokens = sequences[index]
        shared = common_prefix_length(previous, tokens)
        if not trees or not _is_less_work_in_one_tree(len(trees[-1]), len(tokens), shared, width):
            trees.append(TokenTree())
            path, shared = [], 0
        _append(trees[-1], path, tokens, shared)
        trees[-1].paths[index] = path[-needed[index] :]
        previous = tokens
    return trees


def row_work(length: int, width: int) -> int:
    """The model's work for one row, up to a constant factor.

    A layer has 12 · width² multiply-adds per token, and 2 · length · width for its attention. Attention with a mask
    runs at about a quarter of the speed of a matrix product.
    """
    return length * (6 * width + 4 * length)


def _is_less_work_in_one_tree(tree: int, length: int, shared: int, width: int) -> bool:
    """Whether a sequence of ``length`` tokens, ``shared`` of them a common prefix, should join a tree of ``tree``."""
    joined = tree + length - shared
    apart = row_work(tree, width) + row_work(length, width)
    return shared > 0 and joined <= MAX_TREE_TOKENS and row_work(joined, width) < apart


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


def tree_attention(trees: Sequence[TokenTree], length: int, device: torch.device) -> TreeAttention:
    """The attention of trees that are padded to ``length`` on the right. No other token attends to a padding token."""
    positions = [tree.depths + [0] * (length - len(tree)) for tree in trees]
    ends = [tree.ends + list(range(len(tree) + 1, length + 1)) for tree in trees]
    return TreeAttention(torch.tensor(positions, device=device), torch.tensor(ends, device=device))
