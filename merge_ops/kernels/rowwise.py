"""Inner products and linear combinations of vectors along one axis of a tensor, such as its rows or columns."""

from collections.abc import Callable, Sequence
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mergesearch.merge_ops.kernels import native_products
from mergesearch.merge_ops.kernels.plans import Elementwise, Form

LARGEST_STEP = 1 << 20
"""The largest number of elements that are held in float64 at a time."""


def row_grams(tensors: Sequence[Tensor], base: Tensor | None, axis: int) -> NDArray[np.float64]:
    """Returns [k, k, vectors] in float64: ``⟨x_i, x_j⟩`` of each vector along ``axis``, flat over the other axes.

    With ``base``, the inner products are those of the ``x_i − base``. Each tensor is read from memory once.
    """
    shape, size = tensors[0].shape, len(tensors)
    inner, length = _layout(shape, axis)
    outer = prod(shape[: axis % len(shape)]) if shape else 1
    whole = [tensor.contiguous() for tensor in tensors]
    origin = None if base is None else base.contiguous()
    is_read = native_products.reads([*whole, *([] if origin is None else [origin])])
    if is_read and inner == 1:
        upper = native_products.row_grams(whole, origin, outer, length).transpose(1, 2, 0)
    elif is_read and outer == 1:
        upper = native_products.column_grams(whole, origin, length, inner)
    else:
        upper = _in_torch(whole, origin, (outer, length, inner))
    return np.stack([np.stack([upper[min(i, j), max(i, j)] for j in range(size)]) for i in range(size)])


def _in_torch(tensors: Sequence[Tensor], base: Tensor | None, shape: tuple[int, int, int]) -> NDArray[np.float64]:
    outer, length, inner = shape
    lines = [tensor.view(shape).movedim(1, 2).reshape(outer * inner, length) for tensor in tensors]
    origin = None if base is None else base.view(shape).movedim(1, 2).reshape(outer * inner, length)
    step = max(1, LARGEST_STEP // max(1, length))
    parts = [
        _products([x[start : start + step] for x in lines], None if origin is None else origin[start : start + step])
        for start in range(0, max(1, outer * inner), step)
    ]
    return np.asarray(torch.cat(parts, dim=2).cpu().numpy())


def _products(tensors: Sequence[Tensor], base: Tensor | None) -> Tensor:
    wide = [tensor.double() if base is None else tensor.double() - base.double() for tensor in tensors]
    return torch.stack([torch.stack([(a * b).sum(-1) for b in wide]) for a in wide])


def combination(
    coefficients: Sequence[NDArray[np.float64]],
    shape: Sequence[int],
    axis: int,
    base: NDArray[np.float64] | None = None,
    task_vectors: bool = False,
) -> Elementwise:
    """Returns a plan like ``LinearCombination`` in which every vector along ``axis`` has its own coefficients.

    Args:
        coefficients: for each model, one coefficient for each vector, in the order of ``row_grams``.
        shape: the tensor's shape.
        axis: the axis of the vectors.
        base: the base's coefficients, if it has any. They are 1 with ``task_vectors``.
        task_vectors: whether the coefficients are those of task vectors.
    """
    index_of = _vector_indices(shape, axis)

    def function(b: Tensor | None, models: Sequence[Tensor], start: int) -> Tensor:
        indices = index_of(start, models[0].numel(), models[0].device)
        total = torch.zeros_like(models[0])
        for factors, model in zip(coefficients, models, strict=True):
            term = model - b if task_vectors and b is not None else model
            # Not addcmul, which rounds once or twice depending on the processor.
            total.add_(_gathered(factors, indices, term).mul_(term))
        if b is not None and task_vectors:
            return total.add_(b)
        return total if b is None or base is None else total.add_(_gathered(base, indices, b).mul_(b))

    factors = tuple(torch.from_numpy(each).float() for each in (*coefficients, *([] if base is None else [base])))
    form = Form("vectors", factors=factors, vectors=_layout(shape, axis), task_vectors=task_vectors)
    return Elementwise(function, form)


def _gathered(factors: NDArray[np.float64], indices: Tensor, like: Tensor) -> Tensor:
    return torch.from_numpy(factors).to(like.device)[indices].to(like.dtype)


def _vector_indices(shape: Sequence[int], axis: int) -> Callable[[int, int, torch.device], Tensor]:
    """Returns a function from the start and count of flat elements to the index of each element's vector."""
    inner, length = _layout(shape, axis)

    def indices(start: int, count: int, device: torch.device) -> Tensor:
        flat = torch.arange(start, start + count, device=device)
        return flat // (inner * length) * inner + flat % inner

    return indices


def _layout(shape: Sequence[int], axis: int) -> tuple[int, int]:
    """Returns how many elements lie between neighbors along an axis, and how many neighbors there are."""
    axis = axis % len(shape) if shape else 0
    return prod(shape[axis + 1 :]), shape[axis] if shape else 1


def row_of(shape: Sequence[int]) -> Callable[[int, int, torch.device], Tensor]:
    """Returns a function from the start and count of flat elements to the index of each element's row."""
    return _vector_indices(shape, -1)
