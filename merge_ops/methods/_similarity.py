"""Cosine similarities of two tensors, column by column, as in supermerger's cosine modes. In float64."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mergesearch.merge_ops.kernels.plans import SMALLEST_NORM
from mergesearch.merge_ops.kernels.rowwise import row_grams

Columns = NDArray[np.float64]
"""One number for each vector along the first axis, flat over the other axes."""


def column_similarities(mode: str, a: Tensor, b: Tensor) -> Columns:
    """Returns, for each column, the mean of its cosine and the cosine of the whole tensors.

    In ``cosineA`` the columns are scaled to length one before the cosine of the whole tensors is taken.
    """
    aa, bb, ab = _dots(a, b)
    columns = _cosines(aa, bb, ab)
    if mode == "cosineA":
        aa, bb, ab = _unit_squares(aa), _unit_squares(bb), columns
    whole = _cosines(*(np.asarray(total.sum()) for total in (aa, bb, ab)))
    return np.asarray((columns + whole) / 2)


def similarity_range(mode: str, pairs: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Returns the smallest and the largest value over all pairs, without the first and the last percentile.

    The values are the similarities, or in ``cosineA`` the cosines of the columns.
    """
    columns = [
        _cosines(*_dots(a, b)) if mode == "cosineA" else column_similarities(mode, a, b) for a, b in pairs if a.numel()
    ]
    values = np.concatenate(columns) if columns else np.zeros(1)
    values = values[values >= np.percentile(values, 1, method="midpoint")]
    values = values[values <= np.percentile(values, 99, method="midpoint")]
    return float(values.min()), float(values.max())


def _dots(a: Tensor, b: Tensor) -> tuple[Columns, Columns, Columns]:
    """Returns ``⟨a, a⟩``, ``⟨b, b⟩`` and ``⟨a, b⟩`` of the columns."""
    products = row_grams([a, b], None, 0)
    return products[0, 0], products[1, 1], products[0, 1]


def _cosines(aa: Columns, bb: Columns, ab: Columns) -> Columns:
    """Returns zero for a zero vector."""
    norms = np.sqrt(aa * bb)
    return np.where(norms > SMALLEST_NORM**2, ab / np.maximum(norms, SMALLEST_NORM**2), 0.0)


def _unit_squares(squares: Columns) -> Columns:
    """Returns the squared lengths after scaling to length one: 1, or 0 for a zero vector."""
    return np.asarray(squares > SMALLEST_NORM**2, dtype=np.float64)
