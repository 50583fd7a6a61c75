"""Methods that choose elements or rows by what they mean to their tensor."""

import numpy as np
import torch
from torch import Tensor

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
    base, model = case.base.double(), case.models[0].double()
    if base.numel() == 0:
        return base
    p, q = ((x if x.dim() else x.view(1)).softmax(-1) + 1e-8 for x in (model, base))
    divergence = (p * (p / q).log()).sum(-1, keepdim=True).clamp(min=0)
    scores = (model - base).abs() * (divergence if base.dim() else divergence.view(()))
    low, middle, high = np.quantile(scores.flatten().numpy(), [0.25, 0.5, 0.75], method="lower")
    return torch.where(scores >= middle + 1.5 * (high - low), model, base)


def cosine_add(case: Case) -> Tensor:
    base, model, alpha = case.base.double(), case.models[0].double(), case.shared["alpha"]
    if base.dim() < 2 or base.numel() == 0:
        return (1 - alpha) * base + alpha * model
    norms = base.norm(dim=-1) * model.norm(dim=-1)
    cosine = torch.where(norms > 1e-14, (base * model).sum(-1) / norms.clamp(min=1e-14), 1.0)
    spread = cosine.max() - cosine.min()
    similarity = (cosine - cosine.min()) / spread if spread > 1e-12 else torch.ones_like(cosine)
    kept = (similarity - alpha).clamp(0, 1)[..., None]
    return base + (1 - kept) * (model - base)
