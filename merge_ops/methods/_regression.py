"""Least squares from Gram matrices, in float64."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor


def softened(gram: Tensor, alpha: float, ridge: float) -> Tensor:
    """Returns the matrix with its off-diagonal entries times ``alpha``, plus ``ridge`` times its mean diagonal."""
    wide = gram.double()
    diagonal = wide.diagonal()
    floor = ridge * diagonal.mean() if diagonal.mean() > 0 else torch.ones_like(diagonal[:1])
    return alpha * wide + torch.diag((1 - alpha) * diagonal + floor)


def solve(weights: Sequence[Tensor], grams: Sequence[Tensor]) -> Tensor:
    """Returns ``(Σ W_i G_i) (Σ G_i)⁻¹`` for matrices W_i with one row per output.

    Computed as the mean of the W_i plus a correction, so that equal W_i give exactly W_i.
    """
    mean, last = torch.stack(list(weights)).mean(0), grams[-1]
    # The W_i − mean sum to zero: so do their products with any one matrix.
    products = ((weight - mean) @ (gram - last) for weight, gram in zip(weights[:-1], grams[:-1], strict=True))
    return mean + _divided(sum(products, torch.zeros_like(mean)), torch.stack(list(grams)).sum(0))


def _divided(left: Tensor, gram: Tensor) -> Tensor:
    """Returns ``left · gram⁻¹``. Rounding may leave a Gram matrix that is not positive definite."""
    factor, failed = torch.linalg.cholesky_ex(gram)
    if failed:
        return cast(Tensor, torch.linalg.solve(gram, left, left=False))
    return torch.cholesky_solve(left.t(), factor).t()
