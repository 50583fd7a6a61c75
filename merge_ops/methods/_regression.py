"""Least squares from Gram matrices, in float64."""

from collections.abc import Sequence

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
    mean = torch.stack(list(weights)).mean(0)
    total = torch.stack([(weight - mean) @ gram for weight, gram in zip(weights, grams, strict=True)]).sum(0)
    correction: Tensor = torch.linalg.solve(torch.stack(list(grams)).sum(0), total, left=False)
    return mean + correction
