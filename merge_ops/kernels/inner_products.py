"""Inner products of one tensor with several, in one pass over memory.

Differences and products are float32 (float64 if a tensor is float64), and so are the sums of short stretches; these are
added in float64. Spans are added without rounding, so that the result does not depend on the threads.
"""

from collections.abc import Sequence
from math import fsum

import torch
from torch import Tensor

from mergesearch.merge_ops.kernels import native_products
from mergesearch.merge_ops.kernels.blocks import blocks

CPU_BLOCK = 1 << 14
"""Elements that torch takes at a time on a CPU: they stay in cache, and torch processes them on one thread."""
GPU_BLOCK = 1 << 24


def inner_products(vector: Tensor, base: Tensor | None, tensors: Sequence[Tensor], relative: bool) -> Tensor:
    """Returns [1 + tensors] float64 on the vector's device: ``⟨v, b⟩``, then ``⟨v, x_i⟩``, or ``⟨v, x_i − b⟩``.

    Args:
        vector: v, of any shape and float dtype.
        base: b, of the same shape; None gives 0.
        tensors: the x_i, of the same shape.
        relative: whether b is subtracted from the x_i.
    """
    flat = [tensor.contiguous().view(-1) for tensor in (vector, *tensors)]
    flat_base = None if base is None else base.contiguous().view(-1)
    if native_products.reads([*flat, *([] if flat_base is None else [flat_base])]):
        spans = native_products.inner_products(flat[0], flat_base, flat[1:], relative)
        return torch.tensor([fsum(column) for column in spans.T], dtype=torch.float64)
    return _in_torch(flat[0], flat_base, flat[1:], relative)


def _in_torch(vector: Tensor, base: Tensor | None, tensors: Sequence[Tensor], relative: bool) -> Tensor:
    total = torch.zeros(1 + len(tensors), dtype=torch.float64, device=vector.device)
    origin = torch.zeros(1, device=vector.device).expand(vector.numel()) if base is None else base
    for _, (v, b, *each) in blocks([vector, origin, *tensors], GPU_BLOCK if vector.is_cuda else CPU_BLOCK):
        differences = (x - b if relative else x for x in each)
        total += torch.stack([(v * x).sum(dtype=torch.float64) for x in (b, *differences)])
    return total
