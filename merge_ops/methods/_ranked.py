"""Random drops whose probability depends on the rank of each element's magnitude in its row."""

from collections.abc import Sequence
from math import inf, prod

import torch
from torch import Tensor

from mergesearch.merge_ops.kernels import native_selection
from mergesearch.merge_ops.kernels.blocks import wide_dtype
from mergesearch.merge_ops.kernels.numbers import Numbers
from mergesearch.merge_ops.kernels.plans import GRAIN, PADDING, RANKS, RankedDrop, Sparsity
from mergesearch.merge_ops.methods._base import Scalar, Statistics

ELEMENTS_AT_ONCE = 1 << 22


def ranked_drop(statistics: Statistics, model: int, numbers: tuple[float, float, int], rescale: Scalar) -> Sparsity:
    """Returns DELLA's MagPrune of one task vector.

    Args:
        statistics: the tensor's statistics.
        model: the index of the model.
        numbers: density, ε and the mask key. An element is kept with a probability from density − ε (the smallest of
            its row) to density + ε (the largest).
        rescale: ``inverse`` or True to divide by the probability, ``l1`` to restore the L1 norm.
    """
    density, epsilon, key = numbers
    if not 0 < density < 1:
        return Sparsity(threshold=0.0 if density > 0 else inf)
    places = statistics.derived("row ranks", row_ranks, (model,))
    row_length = (statistics.shape or (1,))[-1]
    ranked = _by_rank(places, row_length, density, epsilon, inverse=rescale in ("inverse", True))
    return Sparsity(keep=density, key=key, ranked=ranked, match_l1=rescale == "l1")


def _by_rank(places: Tensor, row_length: int, density: float, epsilon: float, inverse: bool) -> RankedDrop:
    rank = torch.arange(min(max(row_length, 1), RANKS), dtype=torch.float64)
    position = rank / (rank.numel() - 1) if rank.numel() > 1 else rank + 0.5
    probability = density + epsilon * (2 * position - 1)
    grains = (probability * GRAIN).round().clamp(0, GRAIN).int()
    factors = GRAIN / grains.clamp(min=1).float() if inverse else torch.ones(grains.shape)
    return RankedDrop(places, (grains - GRAIN // 2).to(places.device), factors.to(places.device))


def row_ranks(base: Tensor | None, models: Sequence[Tensor]) -> Tensor:
    """Returns the rank of each element's magnitude in its row, from 0, in the layout of ``RankedDrop.places``.

    Of equal elements the first has the lower rank. In rows longer than RANKS, neighbors share a rank.
    """
    assert base is not None
    places = torch.zeros(base.numel() + PADDING, dtype=torch.int16, device=base.device)
    numbers = Numbers("magnitude", base, models)
    flat_base, flat_models = numbers.flat()
    if base.numel() and native_selection.reads([flat_base, *flat_models]):
        native_selection.row_ranks(numbers, flat_base, flat_models, places)
        return places
    base_rows, model_rows = _rows(base), _rows(models[0])
    row_length = base_rows.shape[1]
    step = max(1, ELEMENTS_AT_ONCE // max(1, row_length))
    for first in range(0, len(base_rows), step):
        rows = slice(first, first + step)
        ranks = _ranks(base_rows[rows], model_rows[rows])
        places[first * row_length :][: ranks.numel()] = ranks.view(-1)
    return places


def _rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(prod(tensor.shape[:-1]), tensor.shape[-1]) if tensor.dim() else tensor.reshape(1, 1)


def _ranks(base: Tensor, model: Tensor) -> Tensor:
    wide, row_length = wide_dtype([base, model]), base.shape[1]
    order = (model.to(wide) - base.to(wide)).abs().argsort(dim=1, stable=True)
    position = torch.arange(row_length, device=base.device)
    rank = position if row_length <= RANKS else position * (RANKS - 1) // (row_length - 1)
    ranks = torch.empty(order.shape, dtype=torch.int16, device=base.device)
    return ranks.scatter_(1, order, rank.to(torch.int16).expand_as(order))
