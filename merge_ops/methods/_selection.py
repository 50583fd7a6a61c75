"""Selection of elements by importance in their row (Arcee Fusion)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mergesearch.merge_ops.kernels.blocks import wide_dtype
from mergesearch.merge_ops.kernels.numbers import Numbers
from mergesearch.merge_ops.kernels.plans import Elementwise, Form
from mergesearch.merge_ops.kernels.ranking import Layout, Ranges, Ranking
from mergesearch.merge_ops.kernels.rowwise import row_of
from mergesearch.merge_ops.kernels.threads import run_for

SMALLEST_PROBABILITY = 1e-8
ELEMENTS_AT_ONCE = 1 << 17
"""Elements of the rows that are taken at a time: they stay in cache."""


@dataclass(frozen=True)
class Importance:
    """The divergence of each row, and the smallest importance of an element that is taken."""

    divergences: Tensor
    threshold: float

    @classmethod
    def of(cls, base: Tensor | None, models: Sequence[Tensor]) -> "Importance":
        """Returns the importance of one tensor. The threshold is that of an outlier: Q_2 + 1.5 (Q_3 − Q_1)."""
        assert base is not None
        wide = wide_dtype([base, *models])
        if base.numel() == 0:
            return cls(base.new_zeros(0, dtype=wide), 0.0)
        base_rows, model_rows = _rows(base), _rows(models[0])
        step = max(1, ELEMENTS_AT_ONCE // base_rows.shape[1])
        starts = range(0, len(base_rows), step)
        blocks = [(model_rows[i : i + step], base_rows[i : i + step]) for i in starts]
        (divergences,) = run_for(base.numel(), lambda: torch.cat([divergence(*block) for block in blocks]))
        numbers = Numbers("importance", base, models, divergences)
        ranking = Ranking(lambda: [numbers], Ranges(Layout(wide, signed=True)), numbers.size)
        ranks = [numbers.size - int(part * (numbers.size - 1)) for part in (0.25, 0.5, 0.75)]
        low, middle, high = torch.tensor(ranking.largest_of(ranks), dtype=wide)
        return cls(divergences, (middle + 1.5 * (high - low)).item())


def _rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1]) if tensor.dim() else tensor.reshape(1, 1)


def divergence(model: Tensor, base: Tensor) -> Tensor:
    """Returns ``KL(softmax model ‖ softmax base)`` of each row."""
    wide = wide_dtype([model, base])
    p, q = (rows.to(wide).softmax(-1).add_(SMALLEST_PROBABILITY) for rows in (model, base))
    return torch.div(p, q, out=q).log_().mul_(p).sum(-1)


def take_important(importance: Importance, shape: Sequence[int]) -> Elementwise:
    """Returns the plan of the base with the model's elements whose importance reaches the threshold."""
    row = row_of(shape)

    def function(base: Tensor | None, models: Sequence[Tensor], start: int) -> Tensor:
        assert base is not None
        delta = models[0] - base
        rows = row(start, delta.numel(), delta.device)
        important = delta.abs() * importance.divergences[rows] >= importance.threshold
        return torch.where(important, models[0], base)

    last = shape[-1] if shape else 1
    form = Form("important", (importance.threshold,), factors=(importance.divergences,), vectors=(1, last))
    return Elementwise(function, form)
