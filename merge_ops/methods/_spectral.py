"""Matrices of task vectors by their singular values, in float64; computed once, kept in the dtype that is merged in."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from mergesearch.merge_ops.kernels.blocks import wide_dtype
from mergesearch.merge_ops.kernels.plans import Elementwise
from mergesearch.merge_ops.methods._base import Statistics

TOLERANCE = 1e-7
"""Singular values below this part of the largest are none: their directions are rounding."""


def task_matrices(base: Tensor | None, models: Sequence[Tensor]) -> list[Tensor]:
    assert base is not None
    return [model.double() - base.double() for model in models]


def added(parts: Sequence[Tensor], weights: Sequence[float]) -> Elementwise:
    """The base plus the weighted parts, which are whole tensors, flat."""

    def function(base: Tensor | None, models: Sequence[Tensor], start: int) -> Tensor:
        assert base is not None
        total = torch.zeros_like(models[0])
        for part, weight in zip(parts, weights, strict=True):
            total.add_(part[start : start + total.numel()].to(total), alpha=weight)
        return total.add_(base)

    return Elementwise(function)


def decorrelated(statistics: Statistics, share: float) -> list[Tensor]:
    """Each task's part of TSV-Merge's sum, flat: its leading singular vectors after all tasks' are decorrelated."""
    return statistics.derived("decorrelated", partial(_decorrelate, share), settings=share)


def _decorrelate(share: float, base: Tensor | None, models: Sequence[Tensor]) -> list[Tensor]:
    deltas, wide = task_matrices(base, models), wide_dtype(models)
    rank = max(1, int(share * min(deltas[0].shape) / len(deltas))) if deltas[0].numel() else 0
    cut = [_leading(delta, rank) for delta in deltas]
    left, right = (polar(torch.cat([triple[side] for triple in cut], dim=1)) for side in (0, 2))
    sizes = [triple[1].numel() for triple in cut]
    columns = [torch.split(vectors, sizes, dim=1) for vectors in (left, right)]
    parts = zip(columns[0], [triple[1] for triple in cut], columns[1], strict=True)
    return [((u * s) @ v.t()).reshape(-1).to(wide) for u, s, v in parts]


def _leading(delta: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """U, σ and V of the ``rank`` largest singular values that are any."""
    u, s, v = singular(delta)
    return u[:, :rank], s[:rank], v[:, :rank]


def singular(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U, σ and V over the directions that the matrix has, the largest σ first.

    From the eigenvectors of the smaller Gram matrix: faster than a decomposition of the matrix, with half its digits.
    """
    if matrix.shape[0] < matrix.shape[1]:
        v, s, u = singular(matrix.t())
        return u, s, v
    squares, vectors = torch.linalg.eigh(matrix.t() @ matrix)
    s = squares.clamp(min=0).sqrt().flip(0)
    kept = int((s > TOLERANCE * s[:1]).sum())
    s, v = s[:kept], vectors.flip(1)[:, :kept]
    return matrix @ v / s, s, v


def polar(matrix: Tensor) -> Tensor:
    """``PQᵀ`` of ``matrix = P Σ Qᵀ``, over the directions that it has: the nearest matrix with σ of one or zero."""
    u, _, v = singular(matrix)
    return u @ v.t()


def isotropic(statistics: Statistics) -> Tensor:
    """The sum of the task matrices with all of its singular values at their mean, flat."""
    return statistics.derived("isotropic", _isotropic)


def _isotropic(base: Tensor | None, models: Sequence[Tensor]) -> Tensor:
    total = torch.stack(task_matrices(base, models)).sum(0)
    u, s, v = singular(total)
    mean = s.mean() if s.numel() else 0.0
    return (mean * (u @ v.t())).reshape(-1).to(wide_dtype(models))
