"""Rows and columns as vectors of their own: inner products of each, and sums in which each has its own coefficients."""

from collections.abc import Callable, Sequence
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mergesearch.merge_ops.kernels.plans import Elementwise

LARGEST_STEP = 1 << 20
"""Elements that are in float64 at once."""
Part = Callable[[slice], Tensor]


def row_dots(a: Tensor, b: Tensor, base: Tensor | None, axis: int) -> NDArray[np.float64]:
    """``Σ a·b`` along one axis in float64, flat over the other axes; of ``a − base`` and ``b − base`` where given."""
    if a.dim() == 0:
        a, b, base, axis = a.reshape(1), b.reshape(1), None if base is None else base.reshape(1), 0
    rows = [_rows(tensor, axis) for tensor in (a, b, *([] if base is None else [base]))]
    step = max(1, LARGEST_STEP // max(1, a.shape[axis]))
    parts = [_dots(*(tensor[start : start + step] for tensor in rows)) for start in range(0, rows[0].shape[0], step)]
    return np.asarray(torch.cat(parts).cpu().numpy() if parts else np.zeros(0))


def _rows(tensor: Tensor, axis: int) -> Tensor:
    turned = tensor.movedim(axis, -1)
    return turned.reshape(prod(turned.shape[:-1]), turned.shape[-1])


def _dots(a: Tensor, b: Tensor, base: Tensor | None = None) -> Tensor:
    one, two = a.double(), b.double()
    if base is not None:
        one, two = one - base.double(), two - base.double()
    return (one * two).sum(-1)


def combination(
    coefficients: Sequence[NDArray[np.float64]],
    shape: Sequence[int],
    axis: int,
    base: NDArray[np.float64] | None = None,
    task_vectors: bool = False,
) -> Elementwise:
    """``LinearCombination`` with coefficients of their own for all that lies along ``axis`` (as ``row_dots`` has them).

    ``base`` holds the base's coefficients; with ``task_vectors`` they are 1.
    """
    place = _places(shape, axis)

    def function(b: Tensor | None, models: Sequence[Tensor], start: int) -> Tensor:
        where = place(start, models[0].numel(), models[0].device)
        total = torch.zeros_like(models[0])
        for factors, model in zip(coefficients, models, strict=True):
            part = model - b if task_vectors and b is not None else model
            total.addcmul_(_spread(factors, where, part), part)
        if b is not None and task_vectors:
            return total.add_(b)
        return total if b is None or base is None else total.addcmul_(_spread(base, where, b), b)

    return Elementwise(function)


def _spread(factors: NDArray[np.float64], where: Tensor, like: Tensor) -> Tensor:
    return torch.from_numpy(factors).to(like.device)[where].to(like.dtype)


def _places(shape: Sequence[int], axis: int) -> Callable[[int, int, torch.device], Tensor]:
    """Which coefficient each flat element has."""
    axis = axis % len(shape) if shape else 0
    inner, length = prod(shape[axis + 1 :]), shape[axis] if shape else 1

    def places(start: int, count: int, device: torch.device) -> Tensor:
        flat = torch.arange(start, start + count, device=device)
        return flat // (inner * length) * inner + flat % inner

    return places


def row_of(shape: Sequence[int]) -> Callable[[int, int, torch.device], Tensor]:
    """Which row (all that lies along the last axis) each flat element is in."""
    return _places(shape, -1)
