"""Stems: what many sequences begin with, as examples before every question. Its keys and values are computed once.

Sequences with a stem are rows of their own, behind its keys and values. So the stem is not repeated in every tree, and
rows do not attend to one another, as they do in vain in one large tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mergesearch.evaluators.inference.prefix_tree import in_order, row_work, tree_sizes

SHORTEST = 16
"""Tokens of the shortest stem."""
CALLS_TOKENS = 64
"""A stem makes two more calls of the model. They cost about as much as so many tokens."""
WORTH = 0.9
"""A stem is used if what it is for takes less than this fraction of the work without it."""
MAX_DEPTH = 32
"""Stems that begin with a stem that begins with a stem, and so on, are looked for no deeper than this."""


@dataclass(frozen=True)
class Stem:
    """Sequences, and how many tokens they share as a stem. 0: they have none.

    Attributes:
        length: Tokens of the stem.
        members: Indices of the sequences.
    """

    length: int
    members: tuple[int, ...]


def find_stems(sequences: Sequence[tuple[int, ...]], needed: Sequence[int], width: int) -> list[Stem]:
    """The stems with the least work for the model, and first, if there are any, the sequences without one.

    Args:
        sequences: Token ids.
        needed: For each sequence how many of its last positions are needed. They are no part of a stem.
        width: Size of the model's hidden states.
    """
    search = _Search(sequences, needed, width)
    _, found = search.best(range(len(sequences)), 0)
    alone = tuple(search.order[place] for length, places in found if not length for place in places)
    stems = [Stem(length, tuple(search.order[place] for place in places)) for length, places in found if length]
    return [Stem(0, alone), *stems] if alone else stems


class _Search:
    """Sequences in lexicographic order: those with a common prefix are neighbours."""

    def __init__(self, sequences: Sequence[tuple[int, ...]], needed: Sequence[int], width: int) -> None:
        self.order, self._shared = in_order(sequences)
        self._width = width
        self._lengths = [len(sequences[index]) for index in self.order]
        self._free = [len(sequences[index]) - needed[index] for index in self.order]

    def best(self, places: range, depth: int) -> tuple[float, list[tuple[int, range]]]:
        """The least work for these neighbours, and the length and the places of each stem that gives it."""
        plain = self._work(places, 0)
        if len(places) <= 1 or depth == MAX_DEPTH:
            return plain, [(0, places)]
        common = min(self._shared[place] for place in places[1:])
        options: list[tuple[float, list[tuple[int, range]]]] = [(plain, [(0, places)])]
        stem = min(common, *(self._free[place] for place in places))
        if stem >= SHORTEST:
            own = row_work(stem, self._width) + CALLS_TOKENS * row_work(1, self._width)
            options.append(((own + self._work(places, stem)) / WORTH, [(stem, places)]))
        parts = [self.best(part, depth + 1) for part in self._parts(places, common)]
        options.append((sum(work for work, _ in parts), [stem for _, stems in parts for stem in stems]))
        return min(options, key=lambda option: option[0])

    def _parts(self, places: range, common: int) -> list[range]:
        """The neighbours that share more than ``common`` tokens."""
        ends = [place for place in places[1:] if self._shared[place] == common]
        return [range(a, b) for a, b in zip([places.start, *ends], [*ends, places.stop], strict=True)]

    def _work(self, places: range, stem: int) -> float:
        """The work for the trees that these neighbours make behind a stem."""
        lengths = [self._lengths[place] - stem for place in places]
        shared = [self._shared[place] - stem for place in places]
        sizes = tree_sizes(lengths, shared, self._width, stem)
        return sum(row_work(size, self._width, stem) for _, size in sizes)
