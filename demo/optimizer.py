"""Muon for the matrices of the layers and AdamW for the rest. Here it takes about half the steps of AdamW alone."""

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

_MOMENTUM = 0.95
_ADAMW_FACTOR = 0.2  # AdamW's learning rate, relative to Muon's
_FINAL_FACTOR = 0.02  # the last learning rate, relative to the peak


class Optimizer:
    """Muon and AdamW with one schedule: a linear warm-up to ``rate``, then half a cosine down to almost zero."""

    def __init__(self, model: nn.Module, rate: float, steps: int) -> None:
        layers = {name: p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name}
        rest = [p for name, p in model.named_parameters() if name not in layers]
        self._muon = _Muon(layers.values())
        self._adam = torch.optim.AdamW(rest, betas=(0.9, 0.95), weight_decay=0.0)
        self._parameters = [*layers.values(), *rest]
        self._rate, self._steps, self._done = rate, steps, 0

    def step(self) -> None:
        """Applies the gradients and clears them."""
        rate = self._rate * _schedule(self._done, self._steps)
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._muon.step(rate)
        self._adam.param_groups[0]["lr"] = rate * _ADAMW_FACTOR
        self._adam.step()
        for parameter in self._parameters:
            parameter.grad = None
        self._done += 1


class _Muon:
    """Muon (K. Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024).

    Matrices of the same shape are updated together.
    """

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
    """Approximates UVᵀ of x = USVᵀ with five steps of a quintic Newton-Schulz iteration. x: [..., rows, columns]."""
    if x.shape[-2] > x.shape[-1]:
        return _orthogonalised(x.mT).mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


def _schedule(done: int, steps: int) -> float:
    """The learning rate after ``done`` steps, relative to the peak."""
    warm_up = max(1, steps // 10)
    if done < warm_up:
        return (done + 1) / warm_up
    cosine = (1 + math.cos(math.pi * (done - warm_up) / max(1, steps - warm_up))) / 2
    return _FINAL_FACTOR + (1 - _FINAL_FACTOR) * cosine
