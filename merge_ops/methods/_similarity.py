"""How alike two tensors point, column by column: the similarities of supermerger's cosine modes, in float64."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mergesearch.merge_ops.kernels.plans import SMALLEST_NORM
from mergesearch.merge_ops.kernels.rowwise import row_dots

Columns = NDArray[np.float64]
"""A number for each vector along the first axis, flat over the other axes."""


def column_similarities(mode: str, a: Tensor, b: Tensor) -> Columns:
    """The mean of each column's cosine and the whole tensor's.

    The whole tensor's is that of the tensors as they are, or in ``cosineA`` of those with columns of length one.
    """
    aa, bb, ab = (row_dots(one, two, None, 0) for one, two in ((a, a), (b, b), (a, b)))
    columns = _cosines(aa, bb, ab)
    if mode == "cosineA":
        aa, bb, ab = _is_vector(aa), _is_vector(bb), columns
    whole = _cosines(*(np.asarray(total.sum()) for total in (aa, bb, ab)))
    return np.asarray((columns + whole) / 2)


def similarity_range(mode: str, pairs: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """The extremes in a model without a hundredth at either end: of the similarities, in ``cosineA`` of the cosines."""
    found = [_ranged(mode, a, b) for a, b in pairs if a.numel()]
    known = np.concatenate(found) if found else np.zeros(1)
    known = known[known >= np.percentile(known, 1, method="midpoint")]
    known = known[known <= np.percentile(known, 99, method="midpoint")]
    return float(known.min()), float(known.max())


def _ranged(mode: str, a: Tensor, b: Tensor) -> Columns:
    if mode != "cosineA":
        return column_similarities(mode, a, b)
    return _cosines(*(row_dots(one, two, None, 0) for one, two in ((a, a), (b, b), (a, b))))


def _cosines(aa: Columns, bb: Columns, ab: Columns) -> Columns:
    """Zero where a vector is."""
    norms = np.sqrt(aa * bb)
    return np.where(norms > SMALLEST_NORM**2, ab / np.maximum(norms, SMALLEST_NORM**2), 0.0)


def _is_vector(squares: Columns) -> Columns:
    return np.asarray(squares > SMALLEST_NORM**2, dtype=np.float64)
