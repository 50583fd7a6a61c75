"""Methods that choose elements or rows by what they mean to their tensor."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from .case import Case


def sce(case: Case) -> Tensor:
    deltas = torch.stack(case.task_vectors)
    if deltas[0].numel() == 0:
        return case.base.double()
    variance, part = deltas.var(0, correction=0), case.shared["select_topk"]
    varied = int((variance > 0).sum())
    if part <= 0 or (part < 1 and varied == 0):
        return case.base.double()
    if part < 1:
        cut = variance.flatten().topk(max(1, int(part * varied))).values[-1]
        deltas = deltas * (variance >= cut * (1 - 1e-12))
    energy = deltas.square().reshape(len(deltas), -1).mean(1)
    small = energy.sum() <= case.shared["smallest_energy"]
    weights = torch.ones_like(energy) / len(energy) if small else energy / energy.sum()
    agrees = deltas.sign() == torch.where(deltas.sum(0) >= 0, 1.0, -1.0)
    shares = agrees * weights.view(-1, *[1] * case.base.dim())
    return case.base.double() + (shares * deltas).sum(0) / shares.sum(0).clamp(min=1e-6)


def arcee_fusion(case: Case) -> Tensor:
    if case.base.numel() == 0:
        return case.base.double()
    scores, threshold = importance(case)
    return torch.where(scores >= threshold, case.models[0].double(), case.base.double())


def importance(case: Case) -> tuple[Tensor, float]:
    """Of each element, and from which importance on it is taken."""
    base, model = case.base.double(), case.models[0].double()
    p, q = ((x if x.dim() else x.view(1)).softmax(-1) + 1e-8 for x in (model, base))
    divergence = (p * (p / q).log()).sum(-1, keepdim=True).clamp(min=0)
    scores = (model - base).abs() * (divergence if base.dim() else divergence.view(()))
    low, middle, high = np.quantile(scores.flatten().numpy(), [0.25, 0.5, 0.75], method="lower")
    return scores, float(middle + 1.5 * (high - low))


def undecided(case: Case) -> Tensor:
    """Where rounding may take an element or not: in float32, divergences of nearly equal rows are good to 1 %."""
    scores, threshold = importance(case)
    return (scores - threshold).abs() <= 0.02 * threshold


def cosine_add(case: Case) -> Tensor:
    """As supermerger's cosineA and cosineB."""
    if case.base.numel() == 0:
        return case.base.double()
    mode, pairs = case.shared["mode"], [(case.base, case.models[0]), *case.others]
    (cosine, whole), *others = [column_cosines(mode, wide(a), wide(b)) for a, b in pairs]
    similar = [(columns + tensor) / 2 for columns, tensor in ((cosine, whole), *others)]
    ranged = [cosine, *(columns for columns, _ in others)] if mode == "cosineA" else similar
    known = without_the_outermost(torch.cat([values.flatten() for values in ranged]).numpy())
    spread = known.max() - known.min()
    scaled = (similar[0] - known.min()) / spread if spread > 1e-12 else torch.ones_like(cosine)
    k = (scaled - case.shared["alpha"]).clamp(0, 1)
    return (wide(case.models[0]) * (1 - k) + wide(case.base) * k).view(case.base.shape)


def wide(values: Tensor) -> Tensor:
    return values.double() if values.dim() else values.double().view(1)


def column_cosines(mode: str, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    cosine = functional.cosine_similarity(a, b, dim=0, eps=1e-30)
    if mode == "cosineA":
        a, b = (functional.normalize(x, dim=0, eps=1e-30) for x in (a, b))
    return cosine, functional.cosine_similarity(a.flatten(), b.flatten(), dim=0, eps=1e-30)


def without_the_outermost(values: NDArray[np.float64]) -> NDArray[np.float64]:
    kept = np.delete(values, np.where(values < np.percentile(values, 1, method="midpoint")))
    return np.delete(kept, np.where(kept > np.percentile(kept, 99, method="midpoint")))
