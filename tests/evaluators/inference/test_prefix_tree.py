"""Sequences as trees of tokens: nodes, attention, and which sequences share a tree."""

import random

import pytest
import torch

from mergesearch.evaluators.inference.prefix_tree import build_trees, tree_attention

from .helpers import CPU


def test_a_tree_has_the_nodes_of_its_sequences() -> None:
    (tree,) = build_trees([(1, 2, 3), (1, 2, 4, 5), (1, 6)], [1, 2, 1], width=10_000)
    assert tree.tokens == [1, 2, 3, 4, 5, 6]
    assert tree.depths == [0, 1, 2, 2, 3, 1]
    assert tree.ends == [6, 5, 3, 5, 5, 6]
    assert tree.paths == {0: [2], 1: [3, 4], 2: [5]}


def test_tokens_attend_to_their_ancestors_only() -> None:
    (tree,) = build_trees([(1, 2, 3), (1, 2, 4, 5), (1, 6)], [1, 2, 1], width=10_000)
    visible = tree_attention([tree], 7, CPU).mask(torch.float32)[0, 0] == 0
    ancestors = {0: [0], 1: [0, 1], 2: [0, 1, 2], 3: [0, 1, 3], 4: [0, 1, 3, 4], 5: [0, 5], 6: [6]}
    assert {node: visible[node].nonzero().flatten().tolist() for node in range(7)} == ancestors


@pytest.mark.parametrize("seed", range(5))
def test_every_sequence_is_a_path_of_its_tree(seed: int) -> None:
    rng = random.Random(seed)
    sequences = list({tuple(rng.choices(range(3), k=rng.randint(1, 9))) for _ in range(40)})
    trees = build_trees(sequences, [1] * len(sequences), width=64)
    by_index = {}
    for tree in trees:
        for index, (last,) in tree.paths.items():
            path = [node for node in range(last + 1) if node <= last < tree.ends[node]]
            assert [tree.depths[node] for node in path] == list(range(len(path)))
            by_index[index] = tuple(tree.tokens[node] for node in path)
    assert by_index == dict(enumerate(sequences))


def test_sequences_without_a_common_prefix_have_trees_of_their_own() -> None:
    assert len(build_trees([(1, 2), (3, 4), (5, 6)], [1, 1, 1], width=64)) == 3
