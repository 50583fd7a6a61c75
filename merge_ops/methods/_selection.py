"""Which elements matter: by how far the models spread, or by what they change of their row."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mergesearch.merge_ops.kernels.blocks import wide_dtype
from mergesearch.merge_ops.kernels.plans import Elementwise
from mergesearch.merge_ops.kernels.rowwise import row_of
from mergesearch.merge_ops.kernels.torch_backend import spread_of
from mergesearch.merge_ops.methods._base import TABLE_SIZE

SMALLEST_PROBABILITY = 1e-8
ROWS_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class SpreadTable:
    """The models' energies above every cut of ``Σ (δ_i − mean δ)²``, at up to TABLE_SIZE evenly spaced ranks."""

    ranks: "np.ndarray[tuple[int], np.dtype[np.int64]]"
    spreads: "np.ndarray[tuple[int], np.dtype[np.float64]]"
    energies: "np.ndarray[tuple[int, int], np.dtype[np.float64]]"
    everything: tuple[float, ...]

    @classmethod
    def of(cls, base: Tensor | None, models: Sequence[Tensor]) -> "SpreadTable":
        assert base is not None
        deltas = _deltas(base.reshape(-1), [model.reshape(-1) for model in models])
        squares = torch.stack([delta.double().square() for delta in deltas])
        spread, order = spread_of(deltas).sort(descending=True, stable=True)
        varied = int((spread > 0).sum())
        ranks = np.linspace(1, varied, min(varied, TABLE_SIZE)).round().astype(np.int64)
        places = torch.from_numpy(ranks - 1).to(spread.device)
        sums = squares[:, order].cumsum(1)[:, places]
        return cls(ranks, spread[places].double().cpu().numpy(), sums.cpu().numpy(), tuple(squares.sum(1).tolist()))

    def largest(self, part: float) -> tuple[float, tuple[float, ...]]:
        """The smallest spread in the largest ``part``, and each model's Σ δ² over it.

        Elements that spread as much as the last one are in it.
        """
        if part >= 1:
            return 0.0, self.everything
        if part <= 0 or not self.ranks.size:
            return float("inf"), (0.0,) * len(self.everything)
        rank = max(1, int(part * int(self.ranks[-1])))
        threshold = float(self.spreads[min(int(np.searchsorted(self.ranks, rank)), self.ranks.size - 1)])
        last = self.spreads.size - int(np.searchsorted(self.spreads[::-1], threshold)) - 1
        return threshold, tuple(self.energies[:, last].tolist())


def _deltas(base: Tensor, models: Sequence[Tensor]) -> list[Tensor]:
    wide = wide_dtype([base, *models])
    return [model.to(wide) - base.to(wide) for model in models]


@dataclass(frozen=True)
class Importance:
    """The divergence of each row, and the importance from which on an element is taken."""

    divergences: Tensor
    threshold: float

    @classmethod
    def of(cls, base: Tensor | None, models: Sequence[Tensor]) -> "Importance":
        assert base is not None
        delta = _deltas(base, models)[0]
        if delta.numel() == 0:
            return cls(delta.new_zeros(0), 0.0)
        old, new = (_rows(tensor) for tensor in (base, models[0]))
        step = max(1, ROWS_AT_ONCE // old.shape[1])
        divergences = torch.cat([divergence(new[i : i + step], old[i : i + step]) for i in range(0, len(old), step)])
        scores = _importance(_rows(delta), divergences[:, None]).reshape(-1).sort().values
        low, middle, high = (scores[int(part * (scores.numel() - 1))] for part in (0.25, 0.5, 0.75))
        return cls(divergences, (middle + 1.5 * (high - low)).item())


def _rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1]) if tensor.dim() else tensor.reshape(1, 1)


def divergence(new: Tensor, old: Tensor) -> Tensor:
    """``KL(softmax new ‖ softmax old)`` of each row."""
    wide = wide_dtype([new, old])
    p, q = (rows.to(wide).softmax(-1) + SMALLEST_PROBABILITY for rows in (new, old))
    return (p * (p / q).log()).sum(-1)


def _importance(delta: Tensor, divergences: Tensor) -> Tensor:
    return delta.abs() * divergences


def take_important(importance: Importance, shape: Sequence[int]) -> Elementwise:
    """The base, with the other model's elements of at least the threshold's importance."""
    row = row_of(shape)

    def function(base: Tensor | None, models: Sequence[Tensor], start: int) -> Tensor:
        assert base is not None
        delta = models[0] - base
        where = row(start, delta.numel(), delta.device)
        taken = _importance(delta, importance.divergences[where]) >= importance.threshold
        return torch.where(taken, models[0], base)

    return Elementwise(function)
