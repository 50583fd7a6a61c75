"""The kernels in plain torch. They define the result of a plan, and run where no compiled backend does.

Every operation rounds on its own, in a fixed order, so that a plan gives the same bits on every device. Tensors are
processed in blocks that stay in cache, with scratch memory that is reused.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from math import inf

import torch
from torch import Tensor

from mergesearch.merge_ops.kernels.blocks import wide_dtype
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
from mergesearch.merge_ops.kernels.threads import run_spans

GPU_BLOCK = 1 << 24
Kernel = Callable[[Tensor | None, Sequence[Tensor], int], Tensor]


def combine(tensor_pass: Pass, block: int) -> None:
    """Writes the output of a pass, whose tensors are flat, in blocks of ``block`` elements."""
    inputs, out = tensor_pass.inputs, tensor_pass.out

    def walk(start: int, end: int, step: int = block) -> None:
        scratch = Scratch(wide_dtype(inputs), min(step, end), out.device)
        kernel = _kernel(tensor_pass.plan, scratch)
        for first in range(start, end, step):
            span = slice(first, min(first + step, end))
            wide = [scratch.cast(i, tensor[span]) for i, tensor in enumerate(inputs)]
            models, base = (wide, None) if tensor_pass.base is None else (wide[:-1], wide[-1])
            out[span].copy_(kernel(base, models, first))

    if out.device.type == "cpu":
        # The blocks are too small for torch's own threads, which would wait for each other after every operation.
        run_spans(out.numel(), walk)
    else:
        walk(0, out.numel(), GPU_BLOCK)


class Scratch:
    """Blocks of memory by name, allocated on first use and then reused."""

    def __init__(self, dtype: torch.dtype, size: int, device: torch.device) -> None:
        self._dtype, self._size, self._device = dtype, size, device
        self._blocks: dict[object, Tensor] = {}

    def get(self, name: object, size: int, dtype: torch.dtype | None = None) -> Tensor:
        """Returns the block of that name. Its content is undefined."""
        if name not in self._blocks:
            self._blocks[name] = torch.empty(self._size, dtype=dtype or self._dtype, device=self._device)
        return self._blocks[name][:size]

    def zeros(self, name: object, size: int) -> Tensor:
        """Returns the block of that name, filled with zeros."""
        return self.get(name, size).zero_()

    def cast(self, name: object, block: Tensor) -> Tensor:
        """Returns the block in the dtype of the scratch memory: the same tensor if it has that dtype, else a copy."""
        return block if block.dtype == self._dtype else self.get(name, block.numel()).copy_(block)


def _kernel(plan: Plan, scratch: Scratch) -> Kernel:
    if isinstance(plan, LinearCombination):
        return lambda base, models, _: _linear_combination(plan, base, models, scratch)
    if isinstance(plan, SignConsensus):
        return lambda base, models, start: _sign_consensus(plan, base, models, start, scratch)
    assert isinstance(plan, Elementwise)
    return plan.function


def _linear_combination(
    plan: LinearCombination, base: Tensor | None, models: Sequence[Tensor], scratch: Scratch
) -> Tensor:
    size = models[0].numel()
    total, term = scratch.get("total", size), scratch.get("term", size)
    empty = base is None or plan.base == 0
    if base is not None and not empty:
        torch.mul(base, plan.base, out=total)
    for c, model in zip(plan.coefficients, models, strict=True):
        if c != 0:
            x = torch.sub(model, base, out=term) if plan.task_vectors and base is not None else model
            # Not one add with alpha, which rounds once or twice depending on the processor.
            torch.mul(x, c, out=total) if empty else total.add_(torch.mul(x, c, out=term))
            empty = False
    return total.zero_() if empty else total


def _sign_consensus(
    plan: SignConsensus, base: Tensor | None, models: Sequence[Tensor], start: int, scratch: Scratch
) -> Tensor:
    assert base is not None
    sums, size = _Sums(scratch, base.numel()), base.numel()
    dropped = spread_of([model - base for model in models]) < plan.least_spread if plan.least_spread > 0 else None
    for sparsity, weight, model in zip(plan.sparsity, plan.weights, models, strict=True):
        delta = make_sparse(torch.sub(model, base, out=scratch.get("delta", size)), sparsity, start)
        if dropped is not None:
            delta.masked_fill_(dropped, 0)
        sums.add(delta, sparsity.scale * weight, weight, plan)
    total = sums.elected(plan) if plan.elect else sums.total
    return total.mul_(plan.lambda_).add_(base)


def spread_of(deltas: Sequence[Tensor]) -> Tensor:
    """Returns ``Σ_i (δ_i − mean δ)²`` element by element.

    Every step rounds on its own, as in the compiled kernels.
    """
    mean = reduce(torch.add, deltas).mul(1 / len(deltas))
    return reduce(torch.add, [(delta - mean).square() for delta in deltas])


def make_sparse(delta: Tensor, sparsity: Sparsity, start: int) -> Tensor:
    """Drops elements of the block of a task vector that begins at ``start``, in place. Does not apply the scale."""
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
    """The sums of a sign consensus: over all terms, and over the terms of each sign.

    When the sign of each element is elected, the sums of this sign are known already.
    """

    def __init__(self, scratch: Scratch, size: int) -> None:
        self.total, self.positive, self.negative, self.positive_weight, self.negative_weight = (
            scratch.zeros(name, size)
            for name in ("total", "positive", "negative", "positive weight", "negative weight")
        )
        self._term = scratch.get("term", size)
        self._mask = scratch.get("mask", size, torch.bool)

    def add(self, delta: Tensor, factor: float, weight: float, plan: SignConsensus) -> None:
        """Adds a sparse task vector times ``factor``. Changes ``delta``."""
        if plan.vote == "change":
            self.total.add_(delta)
        term = delta.mul_(factor)
        if plan.vote != "change":
            self.total.add_(torch.sign(term, out=self._term) if plan.vote == "count" else term)
        if plan.elect:
            self.positive.add_(torch.clamp(term, min=0, out=self._term))
            self.negative.add_(torch.clamp(term, max=0, out=self._term))
            self.positive_weight.add_(self._term.copy_(torch.gt(term, 0, out=self._mask)).mul_(weight))
            self.negative_weight.add_(self._term.copy_(torch.lt(term, 0, out=self._mask)).mul_(weight))

    def elected(self, plan: SignConsensus) -> Tensor:
        """Returns the sum, or with ``normalize`` the mean, over the terms of the elected sign."""
        plus = torch.ge(self.total, 0, out=self._mask)
        if plan.normalize:
            divisor = torch.where(plus, self.positive_weight, self.negative_weight, out=self._term)
            divisor.masked_fill_(divisor.abs() <= plan.rounding, 1)
        total = torch.where(plus, self.positive, self.negative, out=self.total)
        return total.div_(divisor) if plan.normalize else total
