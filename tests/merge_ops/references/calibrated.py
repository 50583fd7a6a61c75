"""Methods that know what models show when they run."""

import torch
from torch import Tensor

from .case import Case


def fisher(case: Case) -> Tensor:
    models, w = [model.double() for model in case.models], torch.tensor(case.each["weight"], dtype=torch.float64)
    if any(shown is None for shown in case.shown) or w.sum() <= 1e-8:
        total = w.sum() if w.sum() > 1e-8 else 1.0
        return torch.stack([x * share / total for x, share in zip(models, w, strict=True)]).sum(0)
    information = [shown.double() for shown in case.shown if shown is not None]
    shares = torch.stack(information).clamp(min=case.shared["floor"]) * w.view(-1, *[1] * case.base.dim())
    return (shares * torch.stack(models)).sum(0) / shares.sum(0)


def regmean(case: Case) -> Tensor:
    """Least squares over the inputs themselves is what the Gram matrices say; here by the pseudo-inverse."""
    models = [model.double() for model in case.models]
    if case.base.dim() != 2 or any(shown is None for shown in case.shown):
        return torch.stack(models).mean(0)
    alpha, total, below = case.shared["alpha"], torch.zeros_like(models[0]), torch.zeros(0)
    for model, shown in zip(models, case.shown, strict=True):
        assert shown is not None
        gram = shown.double() * (alpha + (1 - alpha) * torch.eye(len(shown), dtype=torch.float64))
        gram = gram + 1e-6 * shown.double().diagonal().mean() * torch.eye(len(shown), dtype=torch.float64)
        total, below = total + model @ gram, gram if below.numel() == 0 else below + gram
    return total @ torch.linalg.pinv(below, hermitian=True)
