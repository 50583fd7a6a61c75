"""Stacks of layers as one structured value, and the indicators that encode it in a study.

The blocks of all models are laid out in a row, one model after the other, and the row is repeated in passes. For each
position, an indicator says whether the block there is in the stack (arXiv:2403.13187, section 3.2). So a stack may
return to any block as often as there are passes. One more dimension limits the stack's length.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil
from typing import Any, NamedTuple

from optuna.distributions import BaseDistribution, IntDistribution

LENGTH = "stack.length"
INDICATOR = re.compile(r"^stack\.(\d+)\.(\d+)\.(\d+)$")


class Block(NamedTuple):
    """A few consecutive layers of a model: the model's index in the list, and the block's index in the model."""

    model: int
    number: int


class LayerRun(NamedTuple):
    """Consecutive layers of one model: from ``start`` up to, not including, ``end``."""

    model: int
    start: int
    end: int


Stack = tuple[Block, ...]


@dataclass(frozen=True)
class StackShape:
    """The set of all stacks of a search.

    Attributes:
        blocks: the number of blocks of each model.
        passes: how often the row of all blocks is repeated.
        shortest: the least number of blocks of a stack.
        longest: the largest number of blocks of a stack.
    """

    blocks: tuple[int, ...]
    passes: int
    shortest: int
    longest: int

    @classmethod
    def of(cls, distributions: Mapping[str, BaseDistribution]) -> "StackShape | None":
        """The shape that these dimensions encode; None where they encode no stack."""
        indicators = [tuple(map(int, match.groups())) for match in map(INDICATOR.match, distributions) if match]
        length = distributions.get(LENGTH)
        if not indicators or not isinstance(length, IntDistribution):
            return None
        count = 1 + max(model for _, model, _ in indicators)
        blocks = tuple(1 + max(index for _, model, index in indicators if model == m) for m in range(count))
        return cls(blocks, 1 + max(turn for turn, _, _ in indicators), length.low, length.high)

    @property
    def row(self) -> list[Block]:
        """The blocks of one pass."""
        return [Block(model, index) for model, count in enumerate(self.blocks) for index in range(count)]

    @property
    def indicators(self) -> dict[str, Block]:
        """The block of each indicator, by the indicator's name, in the order of the passes."""
        return {
            f"stack.{turn}.{block.model}.{block.number:03}": block
            for turn, block in product(range(self.passes), self.row)
        }

    @property
    def distributions(self) -> Mapping[str, IntDistribution]:
        """The dimensions that encode a stack: its length, and the indicators."""
        # Integers rather than choices: every sampler supports them.
        length = {LENGTH: IntDistribution(self.shortest, self.longest)}
        return length | dict.fromkeys(self.indicators, IntDistribution(0, 1))

    def decode(self, values: Mapping[str, Any]) -> Stack:
        """The stack of these values.

        Where too many indicators are on, evenly spaced ones are kept. Where too few are, evenly spaced ones of those
        that are off are added.
        """
        names, blocks = zip(*self.indicators.items(), strict=True)
        on = [position for position, name in enumerate(names) if values[name]]
        off = [position for position, name in enumerate(names) if not values[name]]
        kept = thinned(on, int(values[LENGTH]))
        return tuple(blocks[position] for position in sorted([*kept, *thinned(off, self.shortest - len(kept))]))

    def encode(self, stack: Sequence[Block]) -> dict[str, int] | None:
        """Values that ``decode`` to the stack; None where it is too long or too short, or needs more passes."""
        if not self.shortest <= len(stack) <= self.longest:
            return None
        names, in_row = list(self.indicators), {block: index for index, block in enumerate(self.row)}
        values = {LENGTH: len(stack), **dict.fromkeys(names, 0)}
        position = -1
        for block in stack:
            position = _next_position(position, in_row[block], len(in_row))
            if position >= len(names):
                return None
            values[names[position]] = 1
        return values

    def whole(self, model: int) -> Stack:
        """The model as it is, or depth-upscaled or thinned where the lengths require it."""
        count = self.blocks[model]
        length = min(max(count, self.shortest), self.longest)
        if count < length <= 2 * count and self.passes > 1:
            return self.upscaled(model, model, length)
        turns = ceil(length / count)
        own = {f"stack.{turn}.{model}.{index:03}" for turn in range(turns) for index in range(count)}
        return self.decode({LENGTH: length} | {name: name in own for name in self.indicators})

    def upscaled(self, lower: int, upper: int, length: int) -> Stack:
        """The first blocks of one model below the last of another, as many of each (arXiv:2312.15166, section 2)."""
        below, above = ceil(length / 2), length // 2
        first = [Block(lower, index) for index in range(min(below, self.blocks[lower]))]
        last = [Block(upper, index) for index in range(self.blocks[upper])]
        return (*first, *last[-min(above, len(last)) :])


def _next_position(position: int, in_row: int, row: int) -> int:
    """The first position after ``position`` at which the block with index ``in_row`` of a row is."""
    turn, last = divmod(position, row) if position >= 0 else (0, -1)
    return (turn if in_row > last else turn + 1) * row + in_row


def thinned(values: Sequence[Any], count: int) -> list[Any]:
    """``count`` evenly spaced ones of the values; all where there are no more, none for a count of 0 or less."""
    if count <= 0 or not values:
        return []
    if count >= len(values):
        return list(values)
    step = (len(values) - 1) / max(count - 1, 1)
    return [values[round(number * step)] for number in range(count)]


def layer_runs(stack: Stack, size: int) -> list[LayerRun]:
    """The layers of a stack whose blocks have ``size`` layers each."""
    return merge_adjacent(LayerRun(model, number * size, (number + 1) * size) for model, number in stack)


def merge_adjacent(runs: Iterable[LayerRun]) -> list[LayerRun]:
    """The same layers, with runs that are consecutive in their own model as one: there is no seam between them."""
    merged: list[LayerRun] = []
    for run in runs:
        if merged and (merged[-1].model, merged[-1].end) == (run.model, run.start):
            merged[-1] = merged[-1]._replace(end=run.end)
        else:
            merged.append(run)
    return merged
