"""Muon for the matrices of the layers, AdamW for the rest: about half the steps that AdamW alone needs here."""

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

_MOMENTUM = 0.95
_ADAM_SHARE = 0.2  # AdamW's rate, as a share of Muon's
_FINAL_SHARE = 0.02


class Optimizer:
    """Steps along a warm-up and a half cosine, from the peak rate down to almost nothing."""

    def __init__(self, model: nn.Module, rate: float, steps: int) -> None:
        layers = {name: p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name}
        rest = [p for name, p in model.named_parameters() if name not in layers]
        self._muon = _Muon(layers.values())
        self._adam = torch.optim.AdamW(rest, betas=(0.9, 0.95), weight_decay=0.0)
        self._parameters = [*layers.values(), *rest]
        self._rate, self._steps, self._done = rate, steps, 0

    def step(self) -> None:
        """Applies the gradients and clears them."""
        rate = self._rate * _share(self._done, self._steps)
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._muon.step(rate)
        self._adam.param_groups[0]["lr"] = rate * _ADAM_SHARE
        self._adam.step()
        for parameter in self._parameters:
            parameter.grad = None
        self._done += 1


class _Muon:
    """K. Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        by_shape: defaultdict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        for parameter in parameters:
            by_shape[parameter.shape].append(parameter)
        self._groups = list(by_shape.values())
        self._momenta = [torch.zeros(len(group), *group[0].shape) for group in self._groups]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        for group, momentum in zip(self._groups, self._momenta, strict=True):
            gradient = torch.stack([p.grad for p in group if p.grad is not None])
            momentum.mul_(_MOMENTUM).add_(gradient)
            update = _orthogonalised(gradient + _MOMENTUM * momentum)
            rows, columns = group[0].shape
            scale = rate * math.sqrt(max(1.0, rows / columns))
            for parameter, change in zip(group, update, strict=True):
                parameter.sub_(change, alpha=scale)


def _orthogonalised(x: Tensor) -> Tensor:
    """About UVᵀ of x = USVᵀ, by five steps of a quintic Newton-Schulz iteration."""
    if x.shape[-2] > x.shape[-1]:
        return _orthogonalised(x.mT).mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


def _share(done: int, steps: int) -> float:
    warm_up = max(1, steps // 10)
    if done < warm_up:
        return (done + 1) / warm_up
    cosine = (1 + math.cos(math.pi * (done - warm_up) / max(1, steps - warm_up))) / 2
    return _FINAL_SHARE + (1 - _FINAL_SHARE) * cosine
