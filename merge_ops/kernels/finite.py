"""Checks that tensors are finite: one pass that allocates nothing."""

from torch import Tensor


def is_finite(tensor: Tensor) -> bool:
    """Returns whether no value of the tensor is NaN or infinite. Tensors of integers always are."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    # The smallest and the largest value are NaN where any value is.
    low, high = tensor.aminmax()
    return bool(low.isfinite() & high.isfinite())


def not_finite(tensor: Tensor) -> str:
    """Returns how many values are not finite, such as ``3 NaN and 1 Inf among 64 values``."""
    counts = {"NaN": int(tensor.isnan().sum()), "Inf": int(tensor.isinf().sum())}
    return f"{' and '.join(f'{n} {kind}' for kind, n in counts.items() if n)} among {tensor.numel()} values"
