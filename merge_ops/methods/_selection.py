"""Selection of elements: by the variance over the models (SCE), or by importance in their row (Arcee Fusion)."""

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
    """The elements sorted by ``Σ_i (δ_i − mean δ)²``, and the models' energies Σ δ_i² above every cut.

    Attributes:
        ranks: up to TABLE_SIZE evenly spaced ranks, counted from 1.
        spreads: the spread of the element of each rank, in descending order.
        energies: (models, ranks), each model's energy over the elements up to each rank.
        total_energies: each model's energy over all elements.
    """

    ranks: "np.ndarray[tuple[int], np.dtype[np.int64]]"
    spreads: "np.ndarray[tuple[int], np.dtype[np.float64]]"
    energies: "np.ndarray[tuple[int, int], np.dtype[np.float64]]"
    total_energies: tuple[float, ...]

    @classmethod
    def of(cls, base: Tensor | None, models: Sequence[Tensor]) -> "SpreadTable":
        """Returns the table of one tensor."""
        assert base is not None
        deltas = _deltas(base.reshape(-1), [model.reshape(-1) for model in models])
        squares = torch.stack([delta.double().square() for delta in deltas])
        spread, order = spread_of(deltas).sort(descending=True, stable=True)
        positive = int((spread > 0).sum())
        ranks = np.linspace(1, positive, min(positive, TABLE_SIZE)).round().astype(np.int64)
        indices = torch.from_numpy(ranks - 1).to(spread.device)
        sums = squares[:, order].cumsum(1)[:, indices]
        return cls(ranks, spread[indices].double().cpu().numpy(), sums.cpu().numpy(), tuple(squares.sum(1).tolist()))

    def largest(self, fraction: float) -> tuple[float, tuple[float, ...]]:
        """Returns the smallest spread among the largest ``fraction``, and each model's energy over these elements.

        Elements whose spread equals the smallest one belong to them.
        """
        if fraction >= 1:
            return 0.0, self.total_energies
        if fraction <= 0 or not self.ranks.size:
            return float("inf"), (0.0,) * len(self.total_energies)
        rank = max(1, int(fraction * int(self.ranks[-1])))
        threshold = float(self.spreads[min(int(np.searchsorted(self.ranks, rank)), self.ranks.size - 1)])
        last = self.spreads.size - int(np.searchsorted(self.spreads[::-1], threshold)) - 1
        return threshold, tuple(self.energies[:, last].tolist())


def _deltas(base: Tensor, models: Sequence[Tensor]) -> list[Tensor]:
    wide = wide_dtype([base, *models])
    return [model.to(wide) - base.to(wide) for model in models]


@dataclass(frozen=True)
class Importance:
    """The divergence of each row, and the smallest importance of an element that is taken."""

    divergences: Tensor
    threshold: float

    @classmethod
    def of(cls, base: Tensor | None, models: Sequence[Tensor]) -> "Importance":
        """Returns the importance of one tensor. The threshold is that of an outlier: Q_2 + 1.5 (Q_3 − Q_1)."""
        assert base is not None
        delta = _deltas(base, models)[0]
        if delta.numel() == 0:
            return cls(delta.new_zeros(0), 0.0)
        base_rows, model_rows = _rows(base), _rows(models[0])
        step = max(1, ROWS_AT_ONCE // base_rows.shape[1])
        starts = range(0, len(base_rows), step)
        divergences = torch.cat([divergence(model_rows[i : i + step], base_rows[i : i + step]) for i in starts])
        scores = _importance(_rows(delta), divergences[:, None]).reshape(-1).sort().values
        low, middle, high = (scores[int(part * (scores.numel() - 1))] for part in (0.25, 0.5, 0.75))
        return cls(divergences, (middle + 1.5 * (high - low)).item())


def _rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1]) if tensor.dim() else tensor.reshape(1, 1)


def divergence(model: Tensor, base: Tensor) -> Tensor:
    """Returns ``KL(softmax model ‖ softmax base)`` of each row."""
    wide = wide_dtype([model, base])
    p, q = (rows.to(wide).softmax(-1) + SMALLEST_PROBABILITY for rows in (model, base))
    return (p * (p / q).log()).sum(-1)


def _importance(delta: Tensor, divergences: Tensor) -> Tensor:
    return delta.abs() * divergences


def take_important(importance: Importance, shape: Sequence[int]) -> Elementwise:
    """Returns the plan of the base with the model's elements whose importance reaches the threshold."""
    row = row_of(shape)

    def function(base: Tensor | None, models: Sequence[Tensor], start: int) -> Tensor:
        assert base is not None
        delta = models[0] - base
        rows = row(start, delta.numel(), delta.device)
        important = _importance(delta, importance.divergences[rows]) >= importance.threshold
        return torch.where(important, models[0], base)

    return Elementwise(function)
