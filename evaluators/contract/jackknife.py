"""Values that are no mean over items (F1, correlations, corpus statistics), told as numbers per item nevertheless.

Comparisons pair candidates item by item and resample items, which needs for each item what it adds to the value. The
jackknife's pseudo-values are that: their mean is the value, and their spread that of the value over samples of items
(Tukey 1958; Efron & Tibshirani, An introduction to the bootstrap, 1993, section 11.5).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mergesearch.evaluators.contract.evaluator import Item, Unprepared

if TYPE_CHECKING:
    from torch import Tensor


def pseudo_values(value: float, left_out: Tensor, weights: Tensor) -> Tensor:
    """[n] float64: what each item adds to a statistic; their mean by ``weights`` is ``value`` exactly.

    left_out: [n] float64, the statistic over all items but one. With h_i = Σw / w_i the numbers are
    h_i · value − (h_i − 1) · left_out_i (Busing, Meijer & van der Leeden 1999, equation 6; with equal weights Tukey's
    n · value − (n − 1) · left_out_i), less their bias. Of a weighted mean they are the items' own scores.
    """
    shares = weights / weights.sum()
    raw = value / shares - (1 / shares - 1) * left_out
    moved: Tensor = raw + (value - (shares * raw).sum())
    return moved


class Jackknife(Unprepared, ABC):
    """For evaluators whose value is no mean of their items' scores: contributions are ``pseudo_values``.

    They fit values that change smoothly as items come and go. Of others (medians, maxima) say so: an attribute
    ``has_contributions = False`` keeps them out of the objective, where intervals are told.
    """

    @abstractmethod
    def value(self, items: Sequence[Item], scores: Tensor) -> float:
        """See ``Evaluator.value``."""

    def leave_one_out(self, items: Sequence[Item], scores: Tensor) -> Tensor:
        """[items] float64: the value without each of the (two or more) items. One call of ``value`` each: override
        it where there is a quicker way."""
        import torch

        others = [[n for n in range(len(items)) if n != left] for left in range(len(items))]
        values = [self.value([items[n] for n in kept], scores[kept]) for kept in others]
        return torch.tensor(values, dtype=torch.float64)

    def contributions(self, items: Sequence[Item], scores: Tensor) -> Tensor:
        """See ``Evaluator.contributions``."""
        import torch

        if len(items) < 2:
            return torch.tensor([self.value([item], scores) for item in items], dtype=torch.float64)
        weights = torch.tensor([item.weight for item in items], dtype=torch.float64)
        return pseudo_values(self.value(items, scores), self.leave_one_out(items, scores), weights)


class FunctionOfMeans(Jackknife):
    """For values that depend on the items only through weighted means of numbers of each (perplexity, F1, MCC)."""

    @abstractmethod
    def statistic(self, means: Tensor) -> Tensor:
        """[..., k] float64, means of the features -> [...], the value."""

    def features(self, items: Sequence[Item], scores: Tensor) -> Tensor:  # noqa: ARG002
        """[items, k] float64: the numbers of which the means are taken. The scores themselves, unless overridden."""
        return scores.reshape(len(scores), -1)

    def value(self, items: Sequence[Item], scores: Tensor) -> float:
        """See ``Evaluator.value``."""
        weighted, weights = self._weighted(items, scores)
        return float(self.statistic(weighted.sum(0) / weights.sum()))

    def leave_one_out(self, items: Sequence[Item], scores: Tensor) -> Tensor:
        """See ``Jackknife.leave_one_out``; all at once."""
        weighted, weights = self._weighted(items, scores)
        return self.statistic((weighted.sum(0) - weighted) / (weights.sum() - weights))

    def _weighted(self, items: Sequence[Item], scores: Tensor) -> tuple[Tensor, Tensor]:
        """([items, k] features by weight, [items, 1] weights)."""
        import torch

        weights = torch.tensor([[item.weight] for item in items], dtype=torch.float64)
        return weights * self.features(items, scores), weights
