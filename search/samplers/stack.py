"""Mutations of the best stacks of layers so far: insert, delete, swap and repeat runs of blocks.

A stack is decoded from a trial's indicators (``space.stack_encoding``), changed as a whole, and encoded again. Mutating
single indicators instead, as the data-flow search of Akiba et al. (arXiv:2403.13187) evolves them, mostly gives broken
models. Numbers beside the stack, such as the factors at its seams, take a normal step in their range.

The first candidates are plain stacks: each model as it is, each depth-upscaled, and the lower half of each below the
upper half of each other. The sampler's only state is the study's finished trials and its seed.
"""

import random
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from itertools import chain, product
from math import exp, log
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import intersection_search_space
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from mergesearch.search.samplers._study_views import best_first
from mergesearch.search.samplers._unit_cube import to_unit
from mergesearch.search.samplers.branches import Point
from mergesearch.search.space.dimension import Range, round_to_step
from mergesearch.search.space.stack_encoding import Block, Stack, StackShape
from mergesearch.search.study import trials as t
from mergesearch.seeds import derive

TRIES = 50
"""How often a child is made again that is no stack of the space, or that the study has already."""
PARENTS = 5
"""The number of best trials that may be mutated: the first in half of the cases, the second in a quarter, and so on."""
NEXT_MOVE = 0.4
"""The probability of one more move after each move."""
NEXT_BLOCK = 0.5
"""The probability that a run of blocks has one more block, after each block."""
STEP = 0.15
"""The standard deviation of a number's step, as a fraction of its range."""
RESAMPLED = 0.2
"""The probability that a choice is drawn again."""


class StackSampler(BaseSampler):
    """Mutates the best stacks so far, as the module describes. For studies of one objective.

    Args:
        seed: another one for every trial.
    """

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._independent = RandomSampler(seed=derive(seed, "independent"))

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: ARG002
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        return intersection_search_space(finished)

    def sample_relative(
        self,
        study: Study,
        trial: FrozenTrial,  # noqa: ARG002
        search_space: dict[str, BaseDistribution],
    ) -> Point:
        parents = _parents(study, search_space)
        if not parents:
            return {}
        tried, shape = _tried(study, search_space), StackShape.of(search_space)
        plain = ({**parents[0], **values} for values in (plain_stacks(shape) if shape else ()))
        mutated = (self._mutate(self._choose(parents), shape, search_space) for _ in range(TRIES))
        for child in chain(plain, mutated):
            if _identity(child, search_space) not in tried:
                break
        return child

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Does nothing: every trial has a sampler with a seed of its own."""

    def _choose(self, parents: Sequence[Point]) -> Point:
        weights = [0.5**rank for rank in range(len(parents))]
        return self._rng.choices(parents, weights)[0]

    def _mutate(self, parent: Point, shape: StackShape | None, space: Mapping[str, BaseDistribution]) -> Point:
        stack = self._mutate_stack(parent, shape) if shape else {}
        others = {name: self._step(parent[name], each) for name, each in space.items() if name not in stack}
        return {**others, **stack}

    def _mutate_stack(self, parent: Point, shape: StackShape) -> Point:
        """The values of the parent's stack after a few moves; unchanged where no try gives a stack of the space."""
        before = shape.decode(parent)
        for _ in range(TRIES):
            stack = before
            while True:
                stack = self._rng.choice(MOVES)(stack, shape, self._rng)
                if self._rng.random() >= NEXT_MOVE:
                    break
            values = shape.encode(stack) if stack != before else None
            if values is not None:
                return {**values}
        return {**(shape.encode(before) or {})}

    def _step(self, value: Any, distribution: BaseDistribution) -> Any:
        """A value near this one."""
        if isinstance(distribution, CategoricalDistribution):
            return self._rng.choice(distribution.choices) if self._rng.random() < RESAMPLED else value
        assert isinstance(distribution, Range)
        unit = _reflect(to_unit(distribution, value) + self._rng.gauss(0, STEP))
        if not distribution.log:
            return round_to_step(distribution, distribution.low + unit * (distribution.high - distribution.low))
        low, high = log(distribution.low), log(distribution.high)
        return round_to_step(distribution, exp(low + unit * (high - low)))


def _reflect(unit: float) -> float:
    """A coordinate, reflected at 0 and 1 until it is between them."""
    unit = abs(unit) % 2
    return 2 - unit if unit > 1 else unit


def _parents(study: Study, space: Mapping[str, BaseDistribution]) -> list[Point]:
    """The points of the best trials in the space, without repetitions of one candidate."""
    inside = [trial for trial in t.completed(study) if space and space.keys() <= trial.params.keys()]
    unique: dict[Hashable, Point] = {}
    for trial in best_first(study, inside):
        unique.setdefault(_identity(trial.params, space), {name: trial.params[name] for name in space})
    return list(unique.values())[:PARENTS]


def _tried(study: Study, space: Mapping[str, BaseDistribution]) -> set[Hashable]:
    """The candidates that the study has already, or that somebody is at."""
    return {_identity(trial.params, space) for trial in t.begun(study) if space.keys() <= trial.params.keys()}


def _identity(values: Mapping[str, Any], space: Mapping[str, BaseDistribution]) -> Hashable:
    """What tells candidates apart: the stack itself, whatever its encoding, and the other values."""
    shape = StackShape.of(space)
    stack = shape.decode(values) if shape else ()
    encoding = shape.distributions if shape else {}
    return stack, tuple((name, values[name]) for name in space if name not in encoding)


def plain_stacks(shape: StackShape) -> Iterator[Point]:
    """Each model as it is, and the lower part of each below the upper part of each, as deep as they are and deeper."""
    models = range(len(shape.blocks))
    stacks = [shape.whole(model) for model in models]
    for lower, upper in product(models, repeat=2):
        depth = shape.blocks[lower]
        lengths = [depth, min(depth * 3 // 2, shape.longest)] if lower != upper else [depth * 3 // 2]
        stacks += [shape.upscaled(lower, upper, length) for length in dict.fromkeys(lengths)]
    yield from ({**values} for stack in stacks if (values := shape.encode(stack)) is not None)


# Moves


def _random_run(length: int, rng: random.Random) -> tuple[int, int]:
    """Start and end of a run of blocks in a stack of that length; short runs are more likely."""
    start, size = rng.randrange(length), 1
    while start + size < length and rng.random() < NEXT_BLOCK:
        size += 1
    return start, start + size


def insert(stack: Stack, shape: StackShape, rng: random.Random) -> Stack:
    """Inserts a run of a model's blocks, which continues the block below in half of the cases, else starts anywhere."""
    position = rng.randrange(len(stack) + 1)
    model = rng.randrange(len(shape.blocks))
    following = stack[position - 1].number + 1 if position else 0
    continues = following < shape.blocks[model] and rng.random() < 0.5
    first = following if continues else rng.randrange(shape.blocks[model])
    size = 1
    while first + size < shape.blocks[model] and rng.random() < NEXT_BLOCK:
        size += 1
    run = tuple(Block(model, number) for number in range(first, first + size))
    return (*stack[:position], *run, *stack[position:])


def delete(stack: Stack, shape: StackShape, rng: random.Random) -> Stack:  # noqa: ARG001
    """Deletes a run of blocks, if others are left."""
    start, end = _random_run(len(stack), rng)
    return (*stack[:start], *stack[end:]) or stack


def swap(stack: Stack, shape: StackShape, rng: random.Random) -> Stack:
    """Replaces a run of blocks by the same blocks of any model. With one model, swaps a run with the block above it."""
    start, end = _random_run(len(stack), rng)
    if len(shape.blocks) > 1:
        model = rng.randrange(len(shape.blocks))
        run = tuple(Block(model, min(block.number, shape.blocks[model] - 1)) for block in stack[start:end])
        return (*stack[:start], *run, *stack[end:])
    return (*stack[:start], *stack[end : end + 1], *stack[start:end], *stack[end + 1 :])


def repeat(stack: Stack, shape: StackShape, rng: random.Random) -> Stack:  # noqa: ARG001
    """Repeats a run of blocks."""
    start, end = _random_run(len(stack), rng)
    return (*stack[:end], *stack[start:end], *stack[end:])


MOVES: Sequence[Callable[[Stack, StackShape, random.Random], Stack]] = (insert, delete, swap, repeat)
