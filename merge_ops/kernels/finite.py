"""Checks that tensors are finite: one pass that allocates nothing."""

from collections.abc import Mapping

import torch
from torch import Tensor


def is_finite(tensor: Tensor) -> bool:
    """Returns whether no value of the tensor is NaN or infinite. Tensors of integers always are."""
    return first_not_finite({"": tensor}) is None


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Returns the name of the first tensor with NaN or infinite values, or None. All are on one device.

    The device is waited for once, however many tensors there are.
    """
    checked = {name: t for name, t in tensors.items() if t.is_floating_point() and t.numel()}
    if not checked:
        return None
    # The smallest and the largest value are NaN where any value is.
    extremes = (tensor.aminmax() for tensor in checked.values())
    flags = torch.stack([low.isfinite() & high.isfinite() for low, high in extremes]).tolist()
    return next((name for name, flag in zip(checked, flags, strict=True) if not flag), None)


def not_finite(tensor: Tensor) -> str:
    """Returns how many values are not finite, such as ``3 NaN and 1 Inf among 64 values``."""
    counts = {"NaN": int(tensor.isnan().sum()), "Inf": int(tensor.isinf().sum())}
    return f"{' and '.join(f'{n} {kind}' for kind, n in counts.items() if n)} among {tensor.numel()} values"
