"""Stacks of layers as one structured value, and the indicators that stand for it in a study.

The blocks of all models are laid out one model after the other, and the whole row several times over, in passes. An
indicator for each place of that row says whether the block is in the stack (arXiv:2403.13187, section 3.2), so a stack
may go back to any block as often as there are passes. A last dimension limits the stack's length.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil
from typing import Any, NamedTuple

from optuna.distributions import BaseDistribution, IntDistribution

LENGTH = "stack.length"
PLACE = re.compile(r"^stack\.(\d+)\.(\d+)\.(\d+)$")


class Block(NamedTuple):
    """Some layers of a model: which model of the list, and which block of it."""

    model: int
    number: int


class Run(NamedTuple):
    """Layers of one model that follow each other: from the first number up to, but without, the second."""

    model: int
    start: int
    end: int


Stack = tuple[Block, ...]


@dataclass(frozen=True)
class StackShape:
    """All stacks of a search: the blocks of each model, the passes over them, and the lengths in blocks."""

    blocks: tuple[int, ...]
    passes: int
    shortest: int
    longest: int

    @classmethod
    def of(cls, distributions: Mapping[str, BaseDistribution]) -> "StackShape | None":
        """The shape that these dimensions belong to; None where there are none of a stack."""
        places = [tuple(map(int, found.groups())) for found in map(PLACE.match, distributions) if found]
        length = distributions.get(LENGTH)
        if not places or not isinstance(length, IntDistribution):
            return None
        count = 1 + max(model for _, model, _ in places)
        blocks = tuple(1 + max(index for _, model, index in places if model == m) for m in range(count))
        return cls(blocks, 1 + max(number for number, _, _ in places), length.low, length.high)

    @property
    def row(self) -> list[Block]:
        """The blocks of one pass."""
        return [Block(model, index) for model, count in enumerate(self.blocks) for index in range(count)]

    @property
    def places(self) -> dict[str, Block]:
        """Every indicator's name, in the order of the passes, and its block."""
        return {
            f"stack.{turn}.{block.model}.{block.number:03}": block
            for turn, block in product(range(self.passes), self.row)
        }

    @property
    def distributions(self) -> Mapping[str, BaseDistribution]:
        # Whole numbers rather than choices: every sampler takes them for what they are.
        length = {LENGTH: IntDistribution(self.shortest, self.longest)}
        return length | dict.fromkeys(self.places, IntDistribution(0, 1))

    def decode(self, values: Mapping[str, Any]) -> Stack:
        """The stack of these values. Too long a one is thinned, too short a one filled up, evenly over its places."""
        places = self.places
        on = [number for number, name in enumerate(places) if values[name]]
        off = [number for number, name in enumerate(places) if not values[name]]
        kept = thinned(on, int(values[LENGTH]))
        filled = sorted([*kept, *thinned(off, self.shortest - len(kept))])
        blocks = list(places.values())
        return tuple(blocks[number] for number in filled)

    def encode(self, stack: Sequence[Block]) -> dict[str, int] | None:
        """Values that ``decode`` to the stack; None where it is too long or too short, or needs more passes."""
        if not self.shortest <= len(stack) <= self.longest:
            return None
        number, row = -1, {block: place for place, block in enumerate(self.row)}
        values = {LENGTH: len(stack), **dict.fromkeys(self.places, 0)}
        names = list(self.places)
        for block in stack:
            turn, place = divmod(number, len(row))
            number = (turn if row[block] > place else turn + 1) * len(row) + row[block] if number >= 0 else row[block]
            if number >= len(names):
                return None
            values[names[number]] = 1
        return values

    def whole(self, model: int) -> Stack:
        """The model as it is; depth-upscaled or thinned where the lengths ask for it."""
        count = self.blocks[model]
        length = min(max(count, self.shortest), self.longest)
        if count < length <= 2 * count and self.passes > 1:
            return self.upscaled(model, model, length)
        turns = ceil(length / count)
        own = {f"stack.{number}.{model}.{index:03}" for number in range(turns) for index in range(count)}
        return self.decode({LENGTH: length} | {name: name in own for name in self.places})

    def upscaled(self, lower: int, upper: int, length: int) -> Stack:
        """The first blocks of one model under the last of another, as many of each (arXiv:2312.15166, section 2)."""
        below, above = ceil(length / 2), length // 2
        first = [Block(lower, index) for index in range(min(below, self.blocks[lower]))]
        last = [Block(upper, index) for index in range(self.blocks[upper])]
        return (*first, *last[-min(above, len(last)) :])


def thinned(values: Sequence[Any], count: int) -> list[Any]:
    """``count`` of the values, evenly; all where there are no more, none for a count of 0 or less."""
    if count <= 0 or not values:
        return []
    if count >= len(values):
        return list(values)
    step = (len(values) - 1) / max(count - 1, 1)
    return [values[round(place * step)] for place in range(count)]


def runs_of(stack: Stack, size: int) -> list[Run]:
    """The stack in blocks of ``size`` layers as runs of layers."""
    return joined(Run(model, number * size, (number + 1) * size) for model, number in stack)


def joined(pieces: Iterable[Run]) -> list[Run]:
    """Layers that follow each other in their own model as one run: no seam is between them."""
    runs: list[Run] = []
    for piece in pieces:
        if runs and (runs[-1].model, runs[-1].end) == (piece.model, piece.start):
            runs[-1] = runs[-1]._replace(end=piece.end)
        else:
            runs.append(piece)
    return runs
