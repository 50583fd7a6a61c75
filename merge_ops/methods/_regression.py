"""Least squares on Gram matrices, in float64."""

from collections.abc import Sequence

import torch
from torch import Tensor


def softened(gram: Tensor, alpha: float, ridge: float) -> Tensor:
    """The matrix with what is beside its diagonal multiplied by ``alpha``, and a part of the mean diagonal added."""
    full = gram.double()
    diagonal = full.diagonal()
    floor = ridge * diagonal.mean() if diagonal.mean() > 0 else torch.ones_like(diagonal[:1])
    return alpha * full + torch.diag((1 - alpha) * diagonal + floor)


def solve(weights: Sequence[Tensor], grams: Sequence[Tensor]) -> Tensor:
    """``(Σ W_i G_i) (Σ G_i)⁻¹`` for matrices with one row per output.

    As the mean plus what the W_i differ from it, so that equal ones give themselves exactly.
    """
    mean = torch.stack(list(weights)).mean(0)
    total = torch.stack([(weight - mean) @ gram for weight, gram in zip(weights, grams, strict=True)]).sum(0)
    change: Tensor = torch.linalg.solve(torch.stack(list(grams)).sum(0), total, left=False)
    return mean + change
