"""Singular values of task matrices, in float64. Results are returned in the dtype that kernels compute in."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from mergesearch.merge_ops.kernels.blocks import wide_dtype
from mergesearch.merge_ops.kernels.plans import Elementwise, Form
from mergesearch.merge_ops.methods._base import Statistics

TOLERANCE = 1e-7
"""Singular values below this fraction of the largest count as zero: their directions are rounding errors."""


def task_matrices(base: Tensor | None, models: Sequence[Tensor]) -> list[Tensor]:
    """Returns the task vectors in float64."""
    assert base is not None
    return [model.double() - base.double() for model in models]


def added(terms: Sequence[Tensor], weights: Sequence[float]) -> Elementwise:
    """Returns the plan of the base plus the weighted terms, which are whole tensors, flat."""

    def function(base: Tensor | None, models: Sequence[Tensor], start: int) -> Tensor:
        assert base is not None
        total = -torch.zeros_like(models[0])  # -0 + x is x for every x, including -0
        for term, weight in zip(terms, weights, strict=True):
            # Not one add with alpha, which rounds once or twice depending on the processor.
            total.add_(term[start : start + total.numel()].to(total) * weight)
        return total.add_(base)

    return Elementwise(function, Form("tables", weights=tuple(weights), tables=tuple(terms)))


def decorrelated(statistics: Statistics, rank_share: float) -> list[Tensor]:
    """Returns each task's term of TSV-Merge, flat: its leading singular vectors after decorrelation."""
    return statistics.derived("decorrelated", partial(_decorrelate, rank_share), settings=rank_share)


def _decorrelate(rank_share: float, base: Tensor | None, models: Sequence[Tensor]) -> list[Tensor]:
    deltas, wide = task_matrices(base, models), wide_dtype(models)
    rank = max(1, int(rank_share * min(deltas[0].shape) / len(deltas))) if deltas[0].numel() else 0
    truncated = [(u[:, :rank], s[:rank], v[:, :rank]) for u, s, v in map(singular, deltas)]
    left, right = (polar(torch.cat([factors[side] for factors in truncated], dim=1)) for side in (0, 2))
    sizes = [s.numel() for _, s, _ in truncated]
    us, vs = (torch.split(vectors, sizes, dim=1) for vectors in (left, right))
    terms = zip(us, truncated, vs, strict=True)
    return [((u * s) @ v.t()).reshape(-1).to(wide) for u, (_, s, _), v in terms]


def singular(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns U, σ and V of the nonzero singular values, in descending order.

    Computed from the eigenvectors of the smaller Gram matrix, which is faster than a decomposition of the matrix and
    has half as many exact digits.
    """
    if matrix.shape[0] < matrix.shape[1]:
        v, s, u = singular(matrix.t())
        return u, s, v
    squares, vectors = torch.linalg.eigh(matrix.t() @ matrix)
    s = squares.clamp(min=0).sqrt().flip(0)
    rank = int((s > TOLERANCE * s[:1]).sum())
    s, v = s[:rank], vectors.flip(1)[:, :rank]
    return matrix @ v / s, s, v


def polar(matrix: Tensor) -> Tensor:
    """Returns ``PQᵀ`` of ``matrix = P Σ Qᵀ``: the nearest matrix whose singular values are all one or zero."""
    u, _, v = singular(matrix)
    return u @ v.t()


def isotropic(statistics: Statistics) -> Tensor:
    """Returns the sum of the task matrices with all singular values replaced by their mean, flat."""
    return statistics.derived("isotropic", _isotropic)


def _isotropic(base: Tensor | None, models: Sequence[Tensor]) -> Tensor:
    total = torch.stack(task_matrices(base, models)).sum(0)
    u, s, v = singular(total)
    mean = s.mean() if s.numel() else 0.0
    return (mean * (u @ v.t())).reshape(-1).to(wide_dtype(models))
