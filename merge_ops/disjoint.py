"""Thinned task vectors, summed where they agree in sign, block by block: the forms that ``SignConsensus`` lacks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from math import inf

import torch
from torch import Tensor

from mergesearch.merge_ops.blocks import blocks, wide_dtype
from mergesearch.merge_ops.methods._base import Scalar, Statistics
from mergesearch.merge_ops.plans import GRAIN, SMALLEST_NORM, Elementwise, SignConsensus, Sparsity
from mergesearch.merge_ops.random import draws, keep_mask

Thin = Callable[[Tensor, int], Tensor]
"""From a block of a task vector and the element where it starts to what remains of it."""


@dataclass(frozen=True)
class Disjoint:
    """How the parts are summed: the fields of ``SignConsensus``; with ``count`` each model has one vote."""

    weights: tuple[float, ...]
    thin: tuple[Thin, ...]
    elect: bool
    normalize: bool
    lambda_: float
    count: bool = False

    def plan(self) -> Elementwise:
        return Elementwise(self._merge)

    def _merge(self, base: Tensor | None, models: Sequence[Tensor], start: int) -> Tensor:
        assert base is not None
        deltas = [thin(model - base, start) for thin, model in zip(self.thin, models, strict=True)]
        parts = [delta * weight for delta, weight in zip(deltas, self.weights, strict=True)]
        total = elected(parts, self.weights, self.normalize, self.count) if self.elect else summed(parts)
        return total.mul_(self.lambda_).add_(base)


def summed(parts: Sequence[Tensor]) -> Tensor:
    return reduce(torch.add, parts, torch.zeros_like(parts[0]))


def elected(parts: Sequence[Tensor], weights: Sequence[float], normalize: bool, count: bool = False) -> Tensor:
    """The sum of the weighted parts that have the elected sign, over the sum of their weights where ``normalize``.

    The sign is that of the parts' sum, or of the sum of their signs where ``count``; 0 counts as +.
    """
    votes = summed([part.sign() for part in parts] if count else parts)
    sign = torch.where(votes >= 0, 1.0, -1.0).to(votes.dtype)
    agree = [part.sign() == sign for part in parts]
    total = summed([part * agrees for part, agrees in zip(parts, agree, strict=True)])
    if not normalize:
        return total
    divisor = summed([agrees.to(total.dtype) * weight for agrees, weight in zip(agree, weights, strict=True)])
    # What float32 may leave of weights that sum to zero.
    rounding = 1e-6 * sum(abs(weight) for weight in weights)
    return total / torch.where(divisor.abs() <= rounding, torch.ones_like(divisor), divisor)


def by_count(statistics: Statistics, plan: SignConsensus) -> Elementwise:
    """A sign consensus in which each model has one vote, whatever its mass."""
    thin = tuple(_thin(statistics, i, sparsity) for i, sparsity in enumerate(plan.sparsity))
    return Disjoint(plan.weights, thin, plan.elect, plan.normalize, plan.lambda_, count=True).plan()


def _thin(statistics: Statistics, model: int, sparsity: Sparsity) -> Thin:
    thin = partial(_sparse, sparsity)
    factor = l1_factor(statistics, model, thin, sparsity) if sparsity.match_l1 else sparsity.scale
    return lambda delta, start: thin(delta, start) * factor


def _sparse(sparsity: Sparsity, delta: Tensor, start: int) -> Tensor:
    size = delta.abs()
    kept = size >= sparsity.threshold
    if sparsity.ceiling < inf:
        kept &= size <= sparsity.ceiling
    if sparsity.keep < 1:
        kept &= keep_mask(sparsity.key, start, delta.numel(), sparsity.keep, delta.device)
    return delta * kept


def l1_factor(statistics: Statistics, model: int, thin: Thin, settings: object) -> float:
    """The factor that gives what remains of a task vector its former L1 norm: a pass of its own over the tensor."""

    def measured(base: Tensor | None, models: Sequence[Tensor]) -> float:
        assert base is not None
        before, after = 0.0, 0.0
        for start, (origin, piece) in blocks([base, models[0]]):
            delta = piece - origin
            before += delta.abs().sum(dtype=torch.float64).item()
            after += thin(delta, start).abs().sum(dtype=torch.float64).item()
        return before / after if min(before, after) > SMALLEST_NORM else 1.0

    return statistics.derived("l1 factor", measured, (model,), (settings,))


def keep_all(delta: Tensor, _: int) -> Tensor:
    return delta


def keep_none(delta: Tensor, _: int) -> Tensor:
    return torch.zeros_like(delta)


def ranked_drop(statistics: Statistics, model: int, numbers: tuple[float, float, int], rescaled: Scalar) -> Thin:
    """DELLA's MagPrune by density, ε and random key: kept with density − ε (a row's smallest) to density + ε."""
    if not 0 < numbers[0] < 1:
        return keep_all if numbers[0] > 0 else keep_none
    ranks, length = statistics.derived("row ranks", row_ranks, (model,)), (statistics.shape or (1,))[-1]
    thin = RankedDrop(*numbers, ranks, length, inverse=rescaled in ("inverse", True)).thin
    if rescaled != "l1":
        return thin
    factor = l1_factor(statistics, model, thin, numbers)
    return lambda delta, start: thin(delta, start) * factor


@dataclass(frozen=True)
class RankedDrop:
    """``ranks`` in rows of ``length``, flat, from 0 for the smallest."""

    density: float
    epsilon: float
    key: int
    ranks: Tensor
    length: int
    inverse: bool

    def thin(self, delta: Tensor, start: int) -> Tensor:
        grains = self._grains(self.ranks[start : start + delta.numel()])
        drawn = draws(self.key, start, delta.numel(), delta.device)
        kept = delta * (drawn.int() < grains - GRAIN // 2)
        return kept * (GRAIN / grains.clamp(min=1).to(delta.dtype)) if self.inverse else kept

    def _grains(self, ranks: Tensor) -> Tensor:
        place = ranks.double() / (self.length - 1) if self.length > 1 else ranks.double() + 0.5
        probability = self.density + self.epsilon * (2 * place - 1)
        return (probability * GRAIN).round().clamp(0, GRAIN).int()


def row_ranks(base: Tensor | None, models: Sequence[Tensor]) -> Tensor:
    """The rank of each element's magnitude in its row, flat, from 0; of equal ones the first is taken for smaller."""
    assert base is not None
    wide = wide_dtype([base, models[0]])
    size = (models[0].to(wide) - base.to(wide)).abs()
    rows = size.reshape(-1, size.shape[-1]) if size.dim() > 1 else size.reshape(1, -1)
    return rows.argsort(dim=1, stable=True).argsort(dim=1).int().reshape(-1)
