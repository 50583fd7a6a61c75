"""A mutation-based sampler for stacks of layers: insert, delete, swap and repeat runs of blocks of the best so far.

A stack is one structured value, decoded from a trial's indicators (``stack_shape``), changed as a whole, and encoded:
among single indicators, as evolved in Sakana's data-flow search (arXiv:2403.13187), the neighbours of a good stack are
mostly broken models. Numbers beside the stack, such as the factors at its seams, take a normal step in their range.

First the plain stacks are tried: each model as it is, depth-upscaled, and the lower part of each under the upper part
of each other. All that the sampler knows are the study's finished trials and its seed.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, product
from math import exp, log
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.search_space import intersection_search_space
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from mergesearch.search.space.stack_encoding import Block, Stack, StackShape
from mergesearch.search.study import trials as t
from mergesearch.seeds import derive

Values = dict[str, Any]
TRIES = 50
"""How often a child is made anew that is no stack of the space, or was there already."""
PARENTS = 5
"""The best trials, of which one is changed: the first in half of the cases, the second in a quarter, and so on."""
MORE_MOVES = 0.4
"""The chance of one more move after each."""
LONGER_RUN = 0.5
"""The chance that a move takes one more block after each."""
STEP = 0.15
"""Standard deviation of the numbers' steps, of their range."""
RESAMPLED = 0.2
"""The chance that a choice is drawn anew."""


class StackSampler(BaseSampler):
    """``seed`` must be another one for every trial. Raises ValueError for a study of several objectives."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._independent = optuna.samplers.RandomSampler(seed=derive(seed, "independent"))

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: ARG002
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        return intersection_search_space(finished)

    def sample_relative(
        self,
        study: Study,
        trial: FrozenTrial,  # noqa: ARG002
        search_space: dict[str, BaseDistribution],
    ) -> Values:
        parents = _best(study, search_space)
        if not parents:
            return {}
        tried, shape = _tried(study, search_space), StackShape.of(search_space)
        plain = ({**parents[0], **values} for values in (plain_stacks(shape) if shape else ()))
        mutated = (self._mutated(self._chosen(parents), shape, search_space) for _ in range(TRIES))
        for child in chain(plain, mutated):
            if _key(child, search_space) not in tried:
                break
        return child

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Nothing: seeds come from the run's."""

    def _chosen(self, parents: Sequence[Values]) -> Values:
        weights = [0.5**rank for rank in range(len(parents))]
        return self._rng.choices(parents, weights)[0]

    def _mutated(self, parent: Values, shape: StackShape | None, space: Mapping[str, BaseDistribution]) -> Values:
        stack = self._moved(shape, parent) if shape else {}
        rest = {name: dist for name, dist in space.items() if name not in stack}
        return {**{name: self._stepped(parent[name], dist) for name, dist in rest.items()}, **stack}

    def _moved(self, shape: StackShape, parent: Values) -> Values:
        """The parent's stack after a few moves; as it was where none of the tries gives one of the space."""
        before = shape.decode(parent)
        for _ in range(TRIES):
            stack = before
            while True:
                stack = self._rng.choice(MOVES)(stack, shape, self._rng)
                if self._rng.random() >= MORE_MOVES:
                    break
            values = shape.encode(stack) if stack != before else None
            if values is not None:
                return values
        return shape.encode(before) or {}

    def _stepped(self, value: Any, distribution: BaseDistribution) -> Any:
        if isinstance(distribution, CategoricalDistribution):
            return self._rng.choice(distribution.choices) if self._rng.random() < RESAMPLED else value
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        low, high = _ends(distribution)
        position = ((log(value) if distribution.log else value) - low) / (high - low) if high > low else 0.0
        return _rounded(low + _reflected(position + self._rng.gauss(0, STEP)) * (high - low), distribution)


def _ends(distribution: FloatDistribution | IntDistribution) -> tuple[float, float]:
    if distribution.log:
        return log(distribution.low), log(distribution.high)
    return distribution.low, distribution.high


def _reflected(position: float) -> float:
    """The position folded back into the unit interval at its ends."""
    position = abs(position) % 2
    return 2 - position if position > 1 else position


def _rounded(position: float, distribution: FloatDistribution | IntDistribution) -> float | int:
    value = exp(position) if distribution.log else position
    step = distribution.step
    if step is not None:
        value = distribution.low + round((value - distribution.low) / step) * step
    inside = min(max(value, distribution.low), distribution.high)
    return int(inside) if isinstance(distribution, IntDistribution) else inside


def _best(study: Study, space: Mapping[str, BaseDistribution]) -> list[Values]:
    """The best trials' values, those of equal candidates once."""
    sign = -1 if study.direction == StudyDirection.MAXIMIZE else 1
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    inside = [trial for trial in complete if space and space.keys() <= trial.params.keys() and trial.value is not None]
    ranked = sorted(inside, key=lambda trial: (t.violation(trial), sign * (trial.value or 0.0), trial.number))
    unique: dict[Any, Values] = {}
    for trial in ranked:
        unique.setdefault(_key(trial.params, space), {name: trial.params[name] for name in space})
    return list(unique.values())[:PARENTS]


def _tried(study: Study, space: Mapping[str, BaseDistribution]) -> set[Any]:
    return {_key(trial.params, space) for trial in t.finished(study) if space.keys() <= trial.params.keys()}


def _key(values: Mapping[str, Any], space: Mapping[str, BaseDistribution]) -> Any:
    """What tells candidates apart: the stack itself, however it is encoded, and the other values."""
    shape = StackShape.of(space)
    stack = shape.decode(values) if shape else ()
    indicators = shape.distributions if shape else {}
    return stack, tuple((name, values[name]) for name in space if name not in indicators)


def plain_stacks(shape: StackShape) -> Iterator[Values]:
    """Each model as it is, and the lower part of each under the upper part of each, as deep as they are or deeper."""
    for model in range(len(shape.blocks)):
        yield from _encoded(shape, shape.whole(model))
    for lower, upper in product(range(len(shape.blocks)), repeat=2):
        depth = shape.blocks[lower]
        lengths = [depth, min(depth * 3 // 2, shape.longest)] if lower != upper else [depth * 3 // 2]
        for length in dict.fromkeys(lengths):
            yield from _encoded(shape, shape.upscaled(lower, upper, length))


def _encoded(shape: StackShape, stack: Stack) -> Iterator[Values]:
    values = shape.encode(stack)
    if values is not None:
        yield values


def _run(length: int, rng: random.Random) -> tuple[int, int]:
    """Where a run of blocks begins and ends in a stack of that length; short ones are likelier."""
    start, size = rng.randrange(length), 1
    while start + size < length and rng.random() < LONGER_RUN:
        size += 1
    return start, start + size


def insert(stack: Stack, shape: StackShape, rng: random.Random) -> Stack:
    """A run of a model's blocks, which goes on from the block below or is any one, between two blocks."""
    place = rng.randrange(len(stack) + 1)
    model = rng.randrange(len(shape.blocks))
    below = stack[place - 1].number + 1 if place else 0
    first = below if below < shape.blocks[model] and rng.random() < 0.5 else rng.randrange(shape.blocks[model])
    size = 1
    while first + size < shape.blocks[model] and rng.random() < LONGER_RUN:
        size += 1
    new = tuple(Block(model, number) for number in range(first, first + size))
    return (*stack[:place], *new, *stack[place:])


def delete(stack: Stack, shape: StackShape, rng: random.Random) -> Stack:  # noqa: ARG001
    """Without a run of blocks."""
    start, end = _run(len(stack), rng)
    return (*stack[:start], *stack[end:]) or stack


def swap(stack: Stack, shape: StackShape, rng: random.Random) -> Stack:
    """A run of blocks gives way to the same ones of any model; of one model, it changes places with the next block."""
    start, end = _run(len(stack), rng)
    if len(shape.blocks) > 1:
        model = rng.randrange(len(shape.blocks))
        new = tuple(Block(model, min(block.number, shape.blocks[model] - 1)) for block in stack[start:end])
        return (*stack[:start], *new, *stack[end:])
    return (*stack[:start], *stack[end : end + 1], *stack[start:end], *stack[end + 1 :])


def repeat(stack: Stack, shape: StackShape, rng: random.Random) -> Stack:  # noqa: ARG001
    """A run of blocks comes twice."""
    start, end = _run(len(stack), rng)
    return (*stack[:end], *stack[start:end], *stack[end:])


MOVES: Sequence[Callable[[Stack, StackShape, random.Random], Stack]] = (insert, delete, swap, repeat)
