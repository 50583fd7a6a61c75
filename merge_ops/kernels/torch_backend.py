"""The kernels in plain torch: the reference of the compiled ones, and what runs where those do not.

Every operation rounds on its own and comes in the same order everywhere, so that a recipe gives the same bits on every
device. The walk is in blocks that stay in cache, through scratch memory that is used again.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from math import inf

import torch
from torch import Tensor

from mergesearch.merge_ops.kernels.masks import draws, keep_mask
from mergesearch.merge_ops.kernels.plans import (
    RANKS,
    Elementwise,
    LinearCombination,
    Pass,
    Plan,
    RankedDrop,
    SignConsensus,
    Sparsity,
)
from mergesearch.merge_ops.kernels.threads import spread

GPU_BLOCK = 1 << 24
Kernel = Callable[[Tensor | None, Sequence[Tensor], int], Tensor]


def combine(one: Pass, block: int) -> None:
    """Writes each plan's tensor to its ``out``, all flat; the inputs are read once per block, whatever the plans."""
    inputs, outs, size = one.inputs, one.outs, one.outs[0].numel()

    def walk(start: int, end: int, step: int = block) -> None:
        scratch = Scratch(wide_dtype(inputs), min(step, end), outs[0].device)
        kernels = [_kernel(plan, scratch) for plan in one.plans]
        for first in range(start, end, step):
            piece = slice(first, min(first + step, end))
            cast = [scratch.cast(i, tensor[piece]) for i, tensor in enumerate(inputs)]
            xs, b = (cast, None) if one.base is None else (cast[:-1], cast[-1])
            for kernel, out in zip(kernels, outs, strict=True):
                out[piece].copy_(kernel(b, xs, first))

    if outs[0].device.type == "cpu":
        # Blocks that torch does not share among its own threads: they would wait for each other at every operation.
        spread(size, walk)
    else:
        walk(0, size, GPU_BLOCK)


def wide_dtype(inputs: Sequence[Tensor]) -> torch.dtype:
    """What is computed in: float32, or float64 where an input is."""
    return reduce(torch.promote_types, (tensor.dtype for tensor in inputs), torch.float32)


class Scratch:
    """Named blocks of memory, made when first asked for and then used again."""

    def __init__(self, dtype: torch.dtype, size: int, device: torch.device) -> None:
        self._dtype, self._size, self._device = dtype, size, device
        self._blocks: dict[object, Tensor] = {}

    def get(self, name: object, size: int, dtype: torch.dtype | None = None) -> Tensor:
        """The block of that name, with whatever was left in it."""
        if name not in self._blocks:
            self._blocks[name] = torch.empty(self._size, dtype=dtype or self._dtype, device=self._device)
        return self._blocks[name][:size]

    def zeros(self, name: object, size: int) -> Tensor:
        return self.get(name, size).zero_()

    def cast(self, name: object, piece: Tensor) -> Tensor:
        """The piece in the wide dtype: itself, or a copy."""
        return piece if piece.dtype == self._dtype else self.get(name, piece.numel()).copy_(piece)


def _kernel(plan: Plan, scratch: Scratch) -> Kernel:
    if isinstance(plan, LinearCombination):
        return lambda b, xs, _: _linear_combination(plan, b, xs, scratch)
    if isinstance(plan, SignConsensus):
        return lambda b, xs, start: _sign_consensus(plan, b, xs, start, scratch)
    assert isinstance(plan, Elementwise)
    return plan.function


def _linear_combination(
    plan: LinearCombination, base: Tensor | None, models: Sequence[Tensor], scratch: Scratch
) -> Tensor:
    size = models[0].numel()
    total, term = scratch.get("total", size), scratch.get("term", size)
    first = base is None or plan.base == 0
    if base is not None and not first:
        torch.mul(base, plan.base, out=total)
    for c, model in zip(plan.coefficients, models, strict=True):
        if c != 0:
            x = torch.sub(model, base, out=term) if plan.task_vectors and base is not None else model
            # Not one add with alpha, which rounds once or twice as the processor has it.
            torch.mul(x, c, out=total) if first else total.add_(torch.mul(x, c, out=term))
            first = False
    return total.zero_() if first else total


def _sign_consensus(
    plan: SignConsensus, base: Tensor | None, models: Sequence[Tensor], start: int, scratch: Scratch
) -> Tensor:
    assert base is not None
    sums, size = _Sums(scratch, base.numel()), base.numel()
    dropped = _little_spread(plan, base, models) if plan.least_spread > 0 else None
    for sparsity, weight, x in zip(plan.sparsity, plan.weights, models, strict=True):
        part = make_sparse(torch.sub(x, base, out=scratch.get("part", size)), sparsity, start)
        if dropped is not None:
            part.masked_fill_(dropped, 0)
        sums.add(part, sparsity.scale * weight, weight, plan)
    total = sums.elected(plan) if plan.elect else sums.total
    return total.mul_(plan.lambda_).add_(base)


def _little_spread(plan: SignConsensus, base: Tensor, models: Sequence[Tensor]) -> Tensor:
    return spread_of([model - base for model in models]) < plan.least_spread


def spread_of(deltas: Sequence[Tensor]) -> Tensor:
    """``Σ_i (δ_i − mean δ)²``; every step by element and rounded on its own, for the compiled kernels' sake."""
    mean = reduce(torch.add, deltas).mul(1 / len(deltas))
    return reduce(torch.add, [(delta - mean).square() for delta in deltas])


def make_sparse(delta: Tensor, sparsity: Sparsity, start: int) -> Tensor:
    """Drops elements of a block that begins at ``start``, in place; its scale is left to the caller."""
    if sparsity.threshold > 0:
        delta.masked_fill_(delta.abs() < sparsity.threshold, 0)
    if sparsity.ceiling < inf:
        delta.masked_fill_(delta.abs() > sparsity.ceiling, 0)
    if sparsity.ranked:
        return _drop_by_rank(delta, sparsity.key, sparsity.ranked, start)
    if sparsity.keep < 1:
        delta.masked_fill_(~keep_mask(sparsity.key, start, delta.numel(), sparsity.keep, delta.device), 0)
    return delta


def _drop_by_rank(delta: Tensor, key: int, ranked: RankedDrop, start: int) -> Tensor:
    places = ranked.places[start : start + delta.numel()].int() & RANKS - 1
    dropped = draws(key, start, delta.numel(), delta.device) >= ranked.kept[places]
    return delta.masked_fill_(dropped, 0).mul_(ranked.factors[places])


class _Sums:
    """The weighted parts added up, in all and by sign, so that the elected sign's sums need only be picked."""

    def __init__(self, scratch: Scratch, size: int) -> None:
        self.total, self.positive, self.negative, self.above, self.below = (
            scratch.zeros(name, size) for name in ("total", "positive", "negative", "above", "below")
        )
        self._term = scratch.get("term", size)
        self._mask = scratch.get("mask", size, torch.bool)

    def add(self, delta: Tensor, factor: float, weight: float, plan: SignConsensus) -> None:
        """Adds what remains of a task vector, times the factor; ``delta`` is changed."""
        if plan.vote == "change":
            self.total.add_(delta)
        part = delta.mul_(factor)
        if plan.vote != "change":
            self.total.add_(torch.sign(part, out=self._term) if plan.vote == "count" else part)
        if plan.elect:
            self.positive.add_(torch.clamp(part, min=0, out=self._term))
            self.negative.add_(torch.clamp(part, max=0, out=self._term))
            self.above.add_(self._term.copy_(torch.gt(part, 0, out=self._mask)).mul_(weight))
            self.below.add_(self._term.copy_(torch.lt(part, 0, out=self._mask)).mul_(weight))

    def elected(self, plan: SignConsensus) -> Tensor:
        plus = torch.ge(self.total, 0, out=self._mask)
        if plan.normalize:
            divisor = torch.where(plus, self.above, self.below, out=self._term)
            divisor.masked_fill_(divisor.abs() <= plan.rounding, 1)
        total = torch.where(plus, self.positive, self.negative, out=self.total)
        return total.div_(divisor) if plan.normalize else total
