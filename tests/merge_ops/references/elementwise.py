"""Methods that look at one element at a time, written as loops over elements."""

from collections.abc import Callable

import torch
from torch import Tensor

from .case import Case


def by_element(case: Case, merge: Callable[[float, list[float]], float]) -> Tensor:
    """``merge(base, models)`` for each element."""
    columns = torch.stack([case.base.double(), *(model.double() for model in case.models)]).reshape(
        len(case.models) + 1, -1
    )
    values = [merge(b, xs) for b, *xs in columns.t().tolist()]
    return torch.tensor(values, dtype=torch.float64).view(case.base.shape)


def nearswap(case: Case) -> Tensor:
    t = case.shared["t"]

    def merge(base: float, models: list[float]) -> float:
        share = min(1.0, t / max(abs(models[0] - base), 1e-6))
        return (1 - share) * base + share * models[0]

    return by_element(case, merge)


def magmax(case: Case) -> Tensor:
    def merge(base: float, models: list[float]) -> float:
        return base + case.shared["lambda"] * max((x - base for x in models), key=lambda d: (abs(d), d))

    return by_element(case, merge)


def train_difference(case: Case) -> Tensor:
    def merge(c: float, models: list[float]) -> float:
        a, b = models
        distance = abs(b - a) + abs(b - c)
        share = abs(b - a) / distance if distance else 0.0
        return a + 1.8 * case.shared["alpha"] * share * (b - c)

    return by_element(case, merge)


def consensus_ta(case: Case) -> Tensor:
    weights, scales, needed = case.each["weight"], case.each["mask_scale"], case.shared["consensus"]

    def merge(base: float, models: list[float]) -> float:
        deltas = [x - base for x in models]
        tau = sum(w * d for w, d in zip(weights, deltas, strict=True))
        votes = sum(abs(d) >= c * abs(tau - d) for c, d in zip(scales, deltas, strict=True))
        return base + case.shared["lambda"] * tau * (votes >= min(needed, len(models)))

    return by_element(case, merge)


def ram(case: Case) -> Tensor:
    return by_element(case, lambda base, models: base + reinforced(case, base, models, [1.0] * len(models)))


def ramplus_tl(case: Case) -> Tensor:
    changed = torch.stack(case.task_vectors).abs() > case.shared["epsilon"]
    count = changed.sum(0)
    factors = []
    for own in changed:
        shared, alone = int((own & (count > 1)).sum()), int((own & (count == 1)).sum())
        ratio = shared / alone if alone else (1e9 if shared else 0.0)
        factors.append(1 + case.shared["r"] * min(case.shared["alpha"], ratio))
    return by_element(case, lambda base, models: base + reinforced(case, base, models, factors))


def reinforced(case: Case, base: float, models: list[float], alone: list[float]) -> float:
    changes = [(x - base, factor) for x, factor in zip(models, alone, strict=True)]
    changes = [(d, factor) for d, factor in changes if abs(d) > case.shared["epsilon"]]
    if len(changes) == 1:
        return changes[0][0] * changes[0][1]
    return sum(d for d, _ in changes) / max(1, len(changes))
