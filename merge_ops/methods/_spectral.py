"""Singular values of task matrices, in float64. Results are returned in the dtype that kernels compute in."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from mergesearch.merge_ops.kernels.blocks import wide_dtype
from mergesearch.merge_ops.kernels.plans import Elementwise, Form
from mergesearch.merge_ops.kernels.threads import run_for
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
    deltas, wide, size = task_matrices(base, models), wide_dtype(models), models[0].numel()
    rank = max(1, int(rank_share * min(deltas[0].shape) / len(deltas))) if size else 0
    truncated = run_for(size, *(partial(singular, delta, rank) for delta in deltas))
    sides = [torch.cat([factors[side] for factors in truncated], dim=1) for side in (0, 2)]
    sizes = [s.numel() for _, s, _ in truncated]
    us, vs = (torch.split(factor, sizes, dim=1) for _, factor in run_for(size, *(partial(polar, m) for m in sides)))
    terms = zip(us, truncated, vs, strict=True)
    return run_for(size, *(partial(_term, u * s, v, wide) for u, (_, s, _), v in terms))


def _term(u: Tensor, v: Tensor, wide: torch.dtype) -> Tensor:
    return (u @ v.t()).reshape(-1).to(wide)


def singular(matrix: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns U, σ and V of the largest ``count`` singular values, as far as they are not zero, in descending order.

    Computed from the eigenvectors of the smaller Gram matrix, which is faster than a decomposition of the matrix and
    has half as many exact digits.
    """
    if matrix.shape[0] < matrix.shape[1]:
        v, s, u = singular(matrix.t(), count)
        return u, s, v
    s, v = _right_singular(matrix)
    s, v = s[:count], v[:, :count]
    return matrix @ v / s, s, v


def _right_singular(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Returns σ and V of the nonzero singular values of a matrix with at least as many rows as columns."""
    squares, vectors = torch.linalg.eigh(matrix.t() @ matrix)
    s = squares.clamp(min=0).sqrt().flip(0)
    rank = int((s > TOLERANCE * s[:1]).sum())
    return s[:rank], vectors.flip(1)[:, :rank]


def polar(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the nonzero singular values, and ``PQᵀ`` of ``matrix = P Σ Qᵀ``.

    This is the nearest matrix whose singular values are all one or zero.
    """
    if matrix.shape[0] < matrix.shape[1]:
        s, turned = polar(matrix.t())
        return s, turned.t()
    s, v = _right_singular(matrix)
    return s, matrix @ (v / s @ v.t())


def isotropic(statistics: Statistics) -> Tensor:
    """Returns the sum of the task matrices with all singular values replaced by their mean, flat."""
    return statistics.derived("isotropic", _isotropic)


def _isotropic(base: Tensor | None, models: Sequence[Tensor]) -> Tensor:
    def compute() -> Tensor:
        s, factor = polar(torch.stack(task_matrices(base, models)).sum(0))
        mean = s.mean() if s.numel() else 0.0
        return (mean * factor).reshape(-1).to(wide_dtype(models))

    return run_for(models[0].numel(), compute)[0]
