"""Thinned task vectors, summed or elected."""

from typing import Any

import torch
from torch import Tensor

from mergesearch.merge_ops.kernels.masks import draws, keep_mask
from mergesearch.merge_ops.kernels.plans import rounded

from .case import Case, divisor, weighted_sum


def trimmed(delta: Tensor, density: float, rescale: Any) -> Tensor:
    if density >= 1 or delta.numel() == 0:
        return delta
    if density <= 0:
        return torch.zeros_like(delta)
    count = max(1, int(density * delta.numel()))
    cut = delta.abs().flatten().topk(count).values[-1]
    kept = torch.where(delta.abs() >= cut, delta, 0.0)
    return kept * trimming_scale(delta, kept, density, rescale)


def trimming_scale(delta: Tensor, kept: Tensor, density: float, rescale: Any) -> float:
    if rescale == "inverse":
        return 1 / density
    if rescale in ("l1", True):
        return l1_scale(delta, kept)
    return 1.0


def l1_scale(delta: Tensor, kept: Tensor) -> float:
    before, after = delta.abs().sum().item(), kept.abs().sum().item()
    return before / after if min(before, after) > 1e-7 else 1.0


def dropped(delta: Tensor, density: float, rescale: Any, key: int) -> Tensor:
    """DARE with the masks that we really draw; their statistics have a test of their own."""
    if density <= 0:
        return torch.zeros_like(delta)
    mask = keep_mask(key, 0, delta.numel(), density, torch.device("cpu")).view(delta.shape)
    kept = torch.where(mask | (density >= 1), delta, 0.0)
    if rescale in ("inverse", True):
        return kept / (rounded(density) if density < 1 else 1.0)
    return kept * l1_scale(delta, kept) if rescale == "l1" and density < 1 else kept


def elected(case: Case, parts: list[Tensor]) -> Tensor:
    """Elect the sign, then the mean of the parts that have it (TIES, steps 2 and 3)."""
    weights = case.each["weight"]
    weighted = torch.stack([w * part for w, part in zip(weights, parts, strict=True)])
    votes = weighted.sign() if case.shared["sign"] == "count" else weighted
    sign = torch.where(votes.sum(0) >= 0, 1.0, -1.0)
    agrees = torch.sign(weighted) == sign
    total = torch.where(agrees, weighted, 0.0).sum(0)
    if case.shared["normalize"]:
        shares = torch.tensor(weights, dtype=torch.float64).view(-1, *[1] * sign.dim())
        below = torch.where(agrees, shares, 0.0).sum(0)
        total = total / torch.where(below.abs() < 1e-8, 1.0, below)
    factor: float = case.shared["lambda"]
    return case.base.double() + factor * total


def ties(case: Case) -> Tensor:
    densities, rescale = case.each["density"], case.shared["rescale"]
    return elected(case, [trimmed(d, p, rescale) for d, p in zip(case.task_vectors, densities, strict=True)])


def thinned(case: Case) -> list[Tensor]:
    each = zip(case.task_vectors, case.each["density"], case.keys, strict=True)
    return [dropped(delta, density, case.shared["rescale"], key) for delta, density, key in each]


def dare_linear(case: Case) -> Tensor:
    change: Tensor = weighted_sum(thinned(case), case.each["weight"]) / divisor(case)
    factor: float = case.shared["lambda"]
    return case.base.double() + factor * change


def dare_ties(case: Case) -> Tensor:
    return elected(case, thinned(case))


def della_linear(case: Case) -> Tensor:
    change: Tensor = weighted_sum(pruned(case), case.each["weight"]) / divisor(case)
    factor: float = case.shared["lambda"]
    return case.base.double() + factor * change


def della(case: Case) -> Tensor:
    return elected(case, pruned(case))


def pruned(case: Case) -> list[Tensor]:
    numbers = zip(case.task_vectors, case.each["density"], case.each["epsilon"], case.keys, strict=True)
    return [magpruned(*each, case.shared["rescale"]) for each in numbers]


def magpruned(delta: Tensor, density: float, epsilon: float, key: int, rescale: Any) -> Tensor:
    if density <= 0 or density >= 1:
        return delta * (density > 0)
    rows = delta.reshape(-1, delta.shape[-1]) if delta.dim() > 1 else delta.reshape(1, -1)
    probabilities = torch.tensor([chance(row, density, epsilon) for row in rows.abs().tolist()], dtype=torch.float64)
    grains = (probabilities.reshape(delta.shape) * 65536).round()
    drawn = draws(key, 0, delta.numel(), delta.device).view(delta.shape).double() + 32768
    kept = torch.where(drawn < grains, delta, 0.0)
    if rescale in ("inverse", True):
        return kept * 65536 / grains.clamp(min=1)
    return kept * l1_scale(delta, kept) if rescale == "l1" else kept


def chance(row: list[float], density: float, epsilon: float) -> list[float]:
    """By the rank in the row; one element alone is kept with the density."""
    order = sorted(range(len(row)), key=lambda place: row[place])
    rank = {place: r for r, place in enumerate(order)}
    spread = [2 * rank[i] / (len(row) - 1) - 1 if len(row) > 1 else 0.0 for i in range(len(row))]
    return [min(1.0, max(0.0, density + epsilon * s)) for s in spread]


def breadcrumbs(case: Case) -> Tensor:
    change: Tensor = weighted_sum(crumbs(case), case.each["weight"]) / divisor(case)
    factor: float = case.shared["lambda"]
    return case.base.double() + factor * change


def breadcrumbs_ties(case: Case) -> Tensor:
    return elected(case, crumbs(case))


def crumbs(case: Case) -> list[Tensor]:
    numbers = zip(case.task_vectors, case.each["density"], case.each["gamma"], strict=True)
    return [crumbled(*each, case.shared["rescale"]) for each in numbers]


def crumbled(delta: Tensor, density: float, gamma: float, rescale: Any) -> Tensor:
    if density >= 1 or delta.numel() == 0:
        return delta
    if density <= 0:
        return torch.zeros_like(delta)
    sizes, n = delta.abs().flatten().sort(descending=True).values, delta.numel()
    count = max(1, int(density * n))
    first = min(int(gamma * n), n - count)
    kept = torch.where((delta.abs() <= sizes[first]) & (delta.abs() >= sizes[first + count - 1]), delta, 0.0)
    return kept * trimming_scale(delta, kept, density, rescale)
