"""Random drops that spare large changes: by the rank of each element's magnitude in its row."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from mergesearch.merge_ops.kernels.blocks import wide_dtype
from mergesearch.merge_ops.kernels.plans import GRAIN, PADDING, RANKS, RankedDrop, Sparsity
from mergesearch.merge_ops.methods._base import Scalar, Statistics

ELEMENTS_AT_ONCE = 1 << 22


def ranked_drop(statistics: Statistics, model: int, numbers: tuple[float, float, int], rescaled: Scalar) -> Sparsity:
    """DELLA's MagPrune by density, ε and random key: kept with density − ε (a row's smallest) to density + ε."""
    density, epsilon, key = numbers
    if not 0 < density < 1:
        return Sparsity(threshold=0.0 if density > 0 else float("inf"))
    places = statistics.derived("row ranks", row_ranks, (model,))
    length = (statistics.shape or (1,))[-1]
    ranked = _by_rank(places, length, density, epsilon, inverse=rescaled in ("inverse", True))
    return Sparsity(keep=density, key=key, ranked=ranked, match_l1=rescaled == "l1")


def _by_rank(places: Tensor, length: int, density: float, epsilon: float, inverse: bool) -> RankedDrop:
    rank = torch.arange(min(max(length, 1), RANKS), dtype=torch.float64)
    place = rank / (rank.numel() - 1) if rank.numel() > 1 else rank + 0.5
    probability = density + epsilon * (2 * place - 1)
    grains = (probability * GRAIN).round().clamp(0, GRAIN).int()
    factors = GRAIN / grains.clamp(min=1).float() if inverse else torch.ones(grains.shape)
    return RankedDrop(places, (grains - GRAIN // 2).to(places.device), factors.to(places.device))


def row_ranks(base: Tensor | None, models: Sequence[Tensor]) -> Tensor:
    """The rank of each element's magnitude in its row, from 0, as ``RankedDrop`` has its places.

    Of equal elements the first is taken for smaller. In rows longer than RANKS, neighbours share a place.
    """
    assert base is not None
    old, new = _rows(base), _rows(models[0])
    length = old.shape[1]
    places = torch.zeros(base.numel() + PADDING, dtype=torch.int16, device=base.device)
    step = max(1, ELEMENTS_AT_ONCE // max(1, length))
    for first in range(0, len(old), step):
        rows = slice(first, first + step)
        places[first * length :][: old[rows].numel()] = _places(old[rows], new[rows]).view(-1)
    return places


def _rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(prod(tensor.shape[:-1]), tensor.shape[-1]) if tensor.dim() else tensor.reshape(1, 1)


def _places(base: Tensor, model: Tensor) -> Tensor:
    wide, length = wide_dtype([base, model]), base.shape[1]
    order = (model.to(wide) - base.to(wide)).abs().argsort(dim=1, stable=True)
    rank = torch.arange(length, device=base.device)
    place = rank if length <= RANKS else rank * (RANKS - 1) // (length - 1)
    found = torch.empty(order.shape, dtype=torch.int16, device=base.device)
    return found.scatter_(1, order, place.to(torch.int16).expand_as(order))
