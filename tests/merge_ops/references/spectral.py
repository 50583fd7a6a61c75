"""Methods on singular values, by singular value decompositions."""

import numpy as np
import torch
from torch import Tensor

from .case import Case, weighted_sum


def tsv(case: Case) -> Tensor:
    weights = tuple(case.shared["lambda"] * w for w in case.each["weight"])
    deltas, count = case.task_vectors, len(case.models)
    if case.base.dim() != 2:
        return case.base.double() + weighted_sum(deltas, weights) / count
    if case.base.numel() == 0:
        return case.base.double()
    rank = max(1, int(case.shared["rank_share"] * min(case.base.shape) / count))
    lefts, sizes, rights, parts = [], [], [], []
    for delta, weight in zip(deltas, weights, strict=True):
        u, s, vt = np.linalg.svd(delta.numpy(), full_matrices=False)
        kept = min(rank, int((s > 1e-7 * s[0]).sum()))
        lefts.append(u[:, :kept])
        rights.append(vt[:kept].T)
        sizes.append(weight * s[:kept])
    parts = procrustes(np.hstack(lefts)) * np.concatenate(sizes) @ procrustes(np.hstack(rights)).T
    return case.base.double() + torch.from_numpy(parts)


def procrustes(matrix: np.ndarray) -> np.ndarray:
    """The nearest orthonormal matrix, over the directions that A has."""
    if matrix.shape[1] == 0:
        return matrix
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    there = s > 1e-7 * s[0]
    return np.asarray(u[:, there] @ vt[there])


def iso_c(case: Case) -> Tensor:
    """The orthonormal factor of the sum, times its nuclear norm over its rank."""
    factor, total = case.shared["lambda"], torch.stack(case.task_vectors).sum(0)
    if case.base.dim() != 2:
        return case.base.double() + factor * total / len(case.models)
    if case.base.numel() == 0 or not total.any():
        return case.base.double()
    s = np.linalg.svd(total.numpy(), compute_uv=False)
    mean = s[s > 1e-7 * s[0]].mean()
    return case.base.double() + factor * mean * torch.from_numpy(procrustes(total.numpy()))
