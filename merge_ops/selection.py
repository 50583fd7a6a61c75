"""Which elements matter: by their variance over the models, or by what they change of their row."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mergesearch.merge_ops.blocks import wide_dtype
from mergesearch.merge_ops.disjoint import summed
from mergesearch.merge_ops.plans import Elementwise
from mergesearch.merge_ops.rowwise import row_of

TABLE_SIZE = 1 << 16
SMALLEST_PROBABILITY = 1e-8
SMALLEST_DIVISOR = 1e-6
ROWS_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class VarianceTable:
    """The models' energies above every cut of the variances, at up to TABLE_SIZE evenly spaced ranks."""

    ranks: "np.ndarray[tuple[int], np.dtype[np.int64]]"
    variances: "np.ndarray[tuple[int], np.dtype[np.float64]]"
    energies: "np.ndarray[tuple[int, int], np.dtype[np.float64]]"
    everything: tuple[float, ...]

    @classmethod
    def of(cls, base: Tensor | None, models: Sequence[Tensor]) -> "VarianceTable":
        assert base is not None
        deltas = _deltas(base.reshape(-1), [model.reshape(-1) for model in models])
        squares = torch.stack([delta.double().square() for delta in deltas])
        variance, order = _variance(deltas).sort(descending=True, stable=True)
        varied = int((variance > 0).sum())
        ranks = np.linspace(1, varied, min(varied, TABLE_SIZE)).round().astype(np.int64)
        places = torch.from_numpy(ranks - 1).to(variance.device)
        sums = squares[:, order].cumsum(1)[:, places]
        return cls(ranks, variance[places].double().cpu().numpy(), sums.cpu().numpy(), tuple(squares.sum(1).tolist()))

    def largest(self, part: float) -> tuple[float, tuple[float, ...]]:
        """The smallest variance in the largest ``part``, and each model's Σ δ² over it.

        Elements that vary as much as the last one are in it.
        """
        if part >= 1:
            return -1.0, self.everything
        if part <= 0 or not self.ranks.size:
            return float("inf"), (0.0,) * len(self.everything)
        rank = max(1, int(part * int(self.ranks[-1])))
        threshold = float(self.variances[min(int(np.searchsorted(self.ranks, rank)), self.ranks.size - 1)])
        last = self.variances.size - int(np.searchsorted(self.variances[::-1], threshold)) - 1
        return threshold, tuple(self.energies[:, last].tolist())


def _deltas(base: Tensor, models: Sequence[Tensor]) -> list[Tensor]:
    wide = wide_dtype([base, *models])
    return [model.to(wide) - base.to(wide) for model in models]


def _variance(deltas: Sequence[Tensor]) -> Tensor:
    """Over the models; every step by element, so that blocks give the bits that whole tensors do."""
    mean = summed(deltas) / len(deltas)
    return summed([(delta - mean) * (delta - mean) for delta in deltas]) / len(deltas)


def select_and_erase(threshold: float, weights: Sequence[float]) -> Elementwise:
    """Of the elements with at least this variance, the weighted mean of the task vectors that have the elected sign."""

    def function(base: Tensor | None, models: Sequence[Tensor], _: int) -> Tensor:
        assert base is not None
        deltas = _deltas(base, models)
        selected = _variance(deltas) >= threshold
        kept = [delta * selected for delta in deltas]
        sign = torch.where(summed(kept) >= 0, 1.0, -1.0)
        shares = [(delta.sign() == sign).to(base.dtype) * weight for delta, weight in zip(kept, weights, strict=True)]
        total = summed([share * delta for share, delta in zip(shares, kept, strict=True)])
        return total / summed(shares).clamp(min=SMALLEST_DIVISOR) + base

    return Elementwise(function)


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
